"""The `counterfoil` command; a base-only install is told which extra it lacks."""

import sys

from counterfoil_console.extras import sentence_without


def main() -> None:
    """Run the command line; never ends in a traceback for a mistake that a person can mend."""
    try:
        from counterfoil_console.cli import run  # noqa: PLC0415  # so that a missing extra becomes a sentence
    except ModuleNotFoundError as error:
        sys.exit(sentence_without(error))
    except KeyboardInterrupt:  # while the modules load
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
