"""Peers side by side: every contender on the same work in one run, interleaved (DESIGN.md section 10)."""
