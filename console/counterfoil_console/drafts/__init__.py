"""Drafts of contracts, from what is known of tools without their owners: recorded writes, OpenAPI, MCP's tools/list.

Each source makes the same model, and one writer turns it into a file that loads. Every guess says what it rests on.
"""
