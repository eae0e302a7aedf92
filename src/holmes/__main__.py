"""The `holmes` command, also as `python -m holmes`."""

import os
import sys


def main() -> None:
    """Entry point; Ctrl-C is clean from the first import to the last line."""
    try:
        from holmes.cli.main import main as command

        command()
    except KeyboardInterrupt:  # while modules are read, or a second time while all is unwound
        print("holmes: interrupted", file=sys.stderr, flush=True)
        os._exit(130)


if __name__ == "__main__":
    main()
