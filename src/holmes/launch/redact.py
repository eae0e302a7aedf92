"""Secrets out of what is printed and logged.

Secret is what the environment holds under a name that says so (``HF_TOKEN``,
``AWS_SECRET_ACCESS_KEY``), and the password of an address (``https://user:password@host``).
Only text that passes through Python's streams is seen: a library that writes to a descriptor
itself goes past it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import IO, Any

MASK = "***"
NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS|API_KEY|ACCESS_KEY)$")
ADDRESS = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")
SHORTEST = 8
"""Characters of a value below which hiding it would hide ordinary words as well."""


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables that are named as secrets, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if NAME.search(name.upper()) and len(value) >= SHORTEST
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with every secret as ``***``; of this process's environment if none is given."""
    for secret in secrets_of(os.environ if environment is None else environment):
        text = text.replace(secret, MASK)
    return ADDRESS.sub(rf"\1:{MASK}", text)


class Redacted:
    """A text stream that writes no secret; everything else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
