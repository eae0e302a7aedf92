"""A run's figures in Prometheus' text format (0.0.4), and a small server for them.

Only ``GET /metrics`` is answered. It listens on the local host unless told otherwise.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from holmes.errors import HolmesError, UnavailableError
from holmes.watch.snapshot import Snapshot, take

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOCAL = "127.0.0.1"
SECONDS_TO_SEND = 10.0
Labels = Mapping[str, str]


def exposition(shot: Snapshot) -> str:
    """All figures of a run; what is not known is left out."""
    return "\n".join(_lines(shot)) + "\n"


def _lines(shot: Snapshot) -> Iterator[str]:
    run = {"run": shot.name}
    single: tuple[tuple[str, str, str, float | None], ...] = (
        ("steps_total", "counter", "Steps that are complete.", shot.step),
        ("steps_wanted", "gauge", "Steps of the job.", shot.steps),
        ("loss", "gauge", "Training loss of the last step.", shot.loss),
        ("validation_loss", "gauge", "Loss on held-out text.", shot.validation),
        ("step_seconds", "gauge", "Median time of recent steps.", shot.step_seconds),
        ("predicted_step_seconds", "gauge", "Step time of the plan.", shot.predicted_seconds),
        ("tokens_per_second", "gauge", "Tokens of the last step.", shot.tokens_per_second),
        ("gradient_norm", "gauge", "Norm before clipping.", shot.grad_norm),
        ("learning_rate", "gauge", "Of the last step.", shot.learning_rate),
        ("last_step_age_seconds", "gauge", "Since the last step.", shot.age_seconds),
    )
    for name, kind, what, value in single:
        if value is not None:
            yield from _family(name, kind, what, [(run, float(value))])
    nics = [({**run, "nic": kind}, float(sent)) for kind, sent in shot.bytes_per_step.items()]
    yield from _family("step_sent_bytes", "gauge", "Sent in the last step.", nics)
    states = [({**run, "state": shot.state}, 1.0)]
    yield from _family("state", "gauge", "1 for the state that the run is in.", states)
    ranks = [({**run, "rank": str(r.rank), "node": r.node}, r) for r in shot.ranks]
    memory = [(labels, float(r.memory_bytes)) for labels, r in ranks if r.memory_bytes is not None]
    yield from _family("rank_memory_bytes", "gauge", "Held after the last step.", memory)
    at = [(labels, float(r.step)) for labels, r in ranks if r.step is not None]
    yield from _family("rank_step", "gauge", "The step that a rank is at.", at)


def _family(
    name: str, kind: str, what: str, samples: Sequence[tuple[Labels, float]]
) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP holmes_{name} {what}"
    yield f"# TYPE holmes_{name} {kind}"
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
        yield f"holmes_{name}{{{shown}}} {_number(value)}"


def _escaped(text: str) -> str:
    """A label's value: backslash, quote and newline escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


class MetricsServer:
    """Serves one run's figures until closed. A context manager.

    Raises:
        UnavailableError: the port is taken, or the address is not of this machine.
    """

    def __init__(self, run: Path, port: int, address: str = LOCAL) -> None:
        handler = type("Handler", (_Handler,), {"run": run})
        try:
            self._server = ThreadingHTTPServer((address, port), handler)
        except OSError as error:
            raise UnavailableError(
                f"cannot serve metrics on {address}:{port}: {error.strerror or error}",
                next_step="choose another port",
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    run: Path
    timeout = SECONDS_TO_SEND

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        try:
            body = exposition(take(self.run)).encode()
        except HolmesError as error:
            self.send_error(503, error.what)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""
