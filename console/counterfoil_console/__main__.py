"""The `counterfoil` command; a base-only install is told which extra it lacks."""

import sys

_PARTS = {"typer": "console", "rich": "console", "structlog": "console", "psycopg": "console", "cel": "console"}


def main() -> None:
    """Run the command line; never ends in a traceback for a mistake that a person can mend."""
    try:
        from counterfoil_console.cli import run  # noqa: PLC0415  # so that a missing extra becomes a sentence
    except ModuleNotFoundError as error:
        extra = _PARTS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.exit(f"counterfoil: the command needs the extra `{extra}`: pip install 'counterfoil[{extra}]'")
    sys.exit(run())


if __name__ == "__main__":
    main()
