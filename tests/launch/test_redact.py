"""Secrets of the environment stand in no output."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from holmes.errors import DataError
from holmes.launch.redact import Redacted, redact
from holmes.launch.wire import error_message

TOKEN = "hf_abcdefgh12345678"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "wandb_api_key", "DB_PASSWORD"]
)
def test_values_of_variables_that_are_named_as_secrets_are_hidden(name: str) -> None:
    assert redact(f"{TOKEN} and {TOKEN}", {name: TOKEN}) == "*** and ***"


@pytest.mark.parametrize(
    ("name", "value"), [("HOME", TOKEN), ("TOKENIZERS_PARALLELISM", "disabled"), ("A_TOKEN", "no")]
)
def test_other_variables_and_short_words_are_not(name: str, value: str) -> None:
    assert redact(f"{value} is here", {name: value}) == f"{value} is here"


def test_a_secret_inside_another_is_no_clue_to_it() -> None:
    environment = {"A_TOKEN": TOKEN, "B_TOKEN": TOKEN + "-long"}
    assert redact(f"{TOKEN}-long {TOKEN}", environment) == "*** ***"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:pass@host:80/x", "https://me:***@host:80/x"),
        ("s3://:key@bucket", "s3://:***@bucket"),
        ("tcp://10.0.0.1:29500", "tcp://10.0.0.1:29500"),
        ("at 12:30 me@home", "at 12:30 me@home"),
    ],
)
def test_the_password_of_an_address_is_hidden(address: str, shown: str) -> None:
    assert redact(address, {}) == shown


def test_a_stream_and_an_error_between_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    stream = io.StringIO()
    print(f"bearer {TOKEN}", file=Redacted(stream), flush=True)
    assert stream.getvalue() == "bearer ***\n"
    for error in (DataError(f"refused {TOKEN}", where=TOKEN), RuntimeError(f"refused {TOKEN}")):
        message = error_message(error)
        assert TOKEN not in str(message) and message["what"] == "refused ***"


def test_the_log_of_a_rank_and_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    code = (
        "import sys, traceback\n"
        "from holmes.launch.rank import redirect_output\n"
        f"redirect_output({str(log)!r}); redirect_output({str(log)!r})\n"
        f"print('out {TOKEN}'); print('err {TOKEN}', file=sys.stderr)\n"
        f"try:\n    raise ValueError('{TOKEN}')\n"
        "except ValueError:\n    traceback.print_exc()\n"
        "raise RuntimeError('last')\n"
    )
    environment = {"HF_TOKEN": TOKEN, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60)
    assert done.returncode == 1
    text = log.read_text()
    assert TOKEN not in text
    assert "out ***" in text and "err ***" in text and "ValueError: ***" in text
    assert "RuntimeError: last" in text


def test_the_command_line_hides_it_too(tmp_path: Path) -> None:
    environment = {"HF_TOKEN": TOKEN, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "holmes", "plan", f"{tmp_path}/{TOKEN}.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 1)
    assert "***" in done.stderr and TOKEN not in done.stderr + done.stdout
