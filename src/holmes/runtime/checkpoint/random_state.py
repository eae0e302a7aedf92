"""The random state of a rank as JSON-ready text, and back."""

from __future__ import annotations

import base64

import torch

from holmes.errors import DataError


def random_state() -> str:
    """State of torch's CPU generator, base64."""
    return base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode()


def restore_random_state(state: str) -> None:
    """Put the generator where :func:`random_state` found it.

    Raises:
        DataError: when the text is no such state.
    """
    try:
        data = bytearray(base64.b64decode(state, validate=True))
        torch.set_rng_state(torch.frombuffer(data, dtype=torch.uint8))
    except (ValueError, RuntimeError) as error:
        raise DataError("the checkpoint's random state is unusable", why=str(error)) from None
