"""The `holmes` command: the app, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from holmes import __version__
from holmes.cli import (
    bench,
    calibrate,
    checkpoint,
    compare,
    diagnose,
    doctor,
    export,
    launch,
    plan,
    probe,
    rehearse,
    report,
    schedule,
    schema,
    simulate,
    train,
    validate,
    verify,
    watch,
)
from holmes.cli.options import described, emit
from holmes.errors import HolmesError, UsageError
from holmes.launch.redact import redact

INTERRUPTED = 130
TERMINATED = 143
app = typer.Typer(
    name="holmes",
    epilog="Anywhere on the line, --debug shows the traceback of an error.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    plan,
    schedule,
    simulate,
    rehearse,
    train,
    verify,
    watch,
    report,
    compare,
    diagnose,
    checkpoint,
    export,
    probe,
    doctor,
    launch,
    validate,
    calibrate,
    schema,
    bench,
)
for module in COMMANDS:
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holmes {__version__}")
        raise typer.Exit


@app.callback(
    help=described(
        "Plan, rehearse and train large models on clusters whose network cards differ.",
        "holmes plan examples/demo.yaml --explain",
        "holmes rehearse examples/demo.yaml --name mine",
        "holmes train examples/demo.yaml --name mine",
    )
)
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options that stand before a command."""


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like Ctrl-C so that children and namespaces are ended."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Entry point; ends the process with the exit code of the outcome."""
    debug = "--debug" in sys.argv or os.environ.get("HOLMES_DEBUG") == "1"
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    code = _run(arguments, debug=debug)
    if code in (INTERRUPTED, TERMINATED):
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End at once: all is unwound, but threads at work and a loaded torch would take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(arguments: list[str], *, debug: bool) -> int:
    """Run one command; its exit code. With ``--json`` an error is the one object on stdout."""
    as_json = "--json" in arguments
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="holmes")
        if code == INTERRUPTED:  # the command-line library turns Ctrl-C into this
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except HolmesError as error:
        if debug:
            raise
        return _end(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _end(_EndedError("interrupted", INTERRUPTED), as_json)
    except Terminated:
        return _end(_EndedError("terminated", TERMINATED), as_json)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if callable(getattr(error, "show", None)):
            return _end_usage(error, as_json)
        if debug:
            raise
        bug = HolmesError(
            f"internal error: {type(error).__name__}: {error}",
            next_step="run again with --debug and report the traceback",
        )
        return _end(bug, as_json)


class _EndedError(HolmesError):
    """The command was ended from outside; ``code`` says how."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.exit_code = code  # type: ignore[misc]


def _end_usage(error: Any, as_json: bool) -> int:
    """What the parser of the command line found wrong, in its words less its inner prefix."""
    error.message = error.message.removeprefix("Value error, ")
    error.show(file=sys.stderr)
    if as_json:
        _print_json(UsageError(error.format_message()))
    return UsageError.exit_code


def _end(error: HolmesError, as_json: bool) -> int:
    print(f"holmes: {redact(error.text())}", file=sys.stderr)
    if as_json:
        _print_json(error)
    return error.exit_code


def _print_json(error: HolmesError) -> None:
    """``{error: {exit_code, what, where, why, next}}`` on stdout."""
    texts = {
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "next": error.next_step,
    }
    shown = {name: redact(text) if text else text for name, text in texts.items()}
    emit({"error": {"exit_code": error.exit_code, **shown}})
