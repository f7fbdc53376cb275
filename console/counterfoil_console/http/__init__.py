"""The HTTP API, by Starlette: /v1 for programs, in JSON; errors are problem details (RFC 9457)."""
