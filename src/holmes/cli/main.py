"""The `holmes` command: the app, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from holmes.cli import compare, launch, plan, probe, rehearse, report, simulate, train, verify
from holmes.errors import HolmesError

app = typer.Typer(
    name="holmes",
    help="Plan, rehearse and train large models on clusters whose network cards differ.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (plan, simulate, rehearse, train, verify, report, compare, probe, launch):
    module.register(app)


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like Ctrl-C so that children and namespaces are ended."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Entry point; ends the process with the exit code of the outcome."""
    debug = "--debug" in sys.argv or os.environ.get("HOLMES_DEBUG") == "1"
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(arguments, debug=debug))


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except HolmesError as error:
        if debug:
            raise
        print(f"holmes: {error.text()}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("holmes: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print("holmes: terminated", file=sys.stderr)
        return 143
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        shown = getattr(error, "show", None)
        if callable(shown):  # a usage error of the command line itself
            shown(file=sys.stderr)
            return 2
        if debug:
            raise
        print(
            f"holmes: internal error: {type(error).__name__}: {error}\n"
            "  next:  run again with --debug and report the traceback",
            file=sys.stderr,
        )
        return 70
