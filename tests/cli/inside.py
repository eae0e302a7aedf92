"""A command in the process of the test: what it answers, without the start of an interpreter."""

from __future__ import annotations

import contextlib
import io

from holmes.cli import main as cli


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `holmes WORDS`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli._run(list(words), debug=False)
    return code, out.getvalue(), err.getvalue()
