"""Adapters to the systems written to: `port` says what one can do, each other module knows one vendor."""
