"""A forked rank: takes its seat, then runs the tasks it is sent, one after the other."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holmes.errors import ConfigError, HolmesError
from holmes.lab.namespace import die_with_parent
from holmes.launch.context import RankContext
from holmes.launch.process import enter_namespaces, free_port
from holmes.launch.redact import Redacted
from holmes.launch.wire import Channel, Message, error_message

Call = Callable[..., Mapping[str, Any]]


def live(channel: Channel, setup: Message, parent: int) -> None:
    """The whole life of a rank; returns when the caller hangs up."""
    try:
        _take_seat(setup, parent)
    except Exception as error:
        traceback.print_exc()
        channel.send({"kind": "error", **error_message(error)})
        return
    channel.send({"kind": "ready"})
    log = setup["log"]
    while (message := channel.receive()) is not None:
        if message["op"] == "port":
            _answer(channel, lambda: {"kind": "port", "port": free_port(message["address"])})
            continue
        if message["log"] != log:
            log = message["log"]
            redirect_output(log)
        _answer(channel, lambda: {"kind": "result", "value": _run(channel, message)})
        sys.stdout.flush()
        sys.stderr.flush()


def _take_seat(setup: Message, parent: int) -> None:
    die_with_parent(parent)
    redirect_output(setup["log"])
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if setup["enter"]:
        enter_namespaces(setup["enter"])
        die_with_parent(parent)  # a new user namespace may have cleared the setting
    os.environ.update(setup["environment"])
    import torch

    torch.set_num_threads(setup["threads"])


def redirect_output(path: str) -> None:
    """Append standard output and error to a log file, without the secrets of the environment."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not isinstance(sys.stdout, Redacted):
        sys.stdout, sys.stderr = Redacted(sys.stdout), Redacted(sys.stderr)


def _answer(channel: Channel, make: Callable[[], Message]) -> None:
    """Send what ``make`` returns; whatever it raises is sent as an error instead."""
    try:
        channel.send(make())
    except BaseException as error:
        if not isinstance(error, HolmesError):
            traceback.print_exc()
        channel.send({"kind": "error", **error_message(error)})


def _run(channel: Channel, message: Message) -> Mapping[str, Any]:
    def report(value: Mapping[str, Any]) -> None:
        channel.send({"kind": "progress", "value": dict(value)})

    context = RankContext(**message["context"], _send=report)
    return resolve(message["call"])(context, **message["args"])


def resolve(call: str) -> Call:
    """The function behind ``package.module:function``.

    Raises:
        ConfigError: when the text has another form or names no function.
    """
    module_name, colon, name = call.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{call!r} is not of the form package.module:function")
    function = getattr(importlib.import_module(module_name), name, None)
    if not callable(function):
        raise ConfigError(f"{module_name} has no function {name!r}")
    return function  # type: ignore[no-any-return]
