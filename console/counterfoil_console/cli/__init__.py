"""The `counterfoil` command: the composition root."""

from counterfoil_console.cli.app import run

__all__ = ["run"]
