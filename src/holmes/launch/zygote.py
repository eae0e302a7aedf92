"""The zygote: one process that imports torch once and forks the ranks.

Importing torch costs more than a small test or demo; a fork costs milliseconds.
The zygote stays single-threaded and runs no tensor operation, so forking it is
safe. It ends its children when its caller hangs up, for whatever reason.

Control messages (one JSON object per packet): ``spawn`` (with the rank's socket
attached), ``signal``; it answers ``ready``, ``failed``, ``spawned``, ``refused``,
``exited``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from holmes.launch.rank import live
from holmes.launch.wire import Channel, Message

NEEDED = ("torch", "torch.distributed")
LATER = ("torch._dynamo",)
"""What torch imports when an optimiser is first made: seconds, in every rank, after every start."""
WELCOME = ("holmes.runtime", "holmes.models", "holmes.train")
"""Rooms whose modules are imported early; a rank that needs them imports them anyway."""
PACKET_BYTES = 1 << 20
FAREWELL_SECONDS = 0.3


class Zygote:
    """Forks ranks on request and reports how they end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Answer requests until the caller hangs up, then end every child."""
        try:
            self._tell({"event": "ready"})
            control = self._control.fileno()
            while True:
                ready, _, _ = select.select([control, self._wake_read], [], [])
                if self._wake_read in ready:
                    self._reap()
                if control in ready and not self._handle():
                    return
        except ConnectionError:
            return
        finally:
            self._end_children()

    def _handle(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, PACKET_BYTES, 4)
        if not data:
            return False
        message: Message = json.loads(data)
        if message["op"] == "spawn":
            self._spawn(message, descriptors[0])
        else:
            for pid in message["pids"]:
                if pid in self._children:  # only own children that are not reaped yet
                    os.kill(pid, message["signal"])
        return True

    def _spawn(self, setup: Message, descriptor: int) -> None:
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threading.active_count() > 1 or threads > 1:
            os.close(descriptor)
            reason = f"an import started threads ({threads}); forking would not be safe"
            self._tell({"event": "refused", "seat": setup["seat"], "reason": reason})
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_rank(setup, descriptor, parent)
        os.close(descriptor)
        self._children.add(pid)
        self._tell({"event": "spawned", "seat": setup["seat"], "pid": pid})

    def _become_rank(self, setup: Message, descriptor: int, parent: int) -> None:
        """Runs in the child and never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            os.set_inheritable(descriptor, False)
            live(Channel(socket.socket(fileno=descriptor)), setup, parent)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass
        for pid, status in self._ended():
            self._tell({"event": "exited", "pid": pid, "status": status})

    def _ended(self) -> Iterable[tuple[int, int]]:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._children.discard(pid)
                yield pid, status

    def _end_children(self) -> None:
        limit = time.monotonic() + FAREWELL_SECONDS  # idle ranks leave by themselves
        while self._children and time.monotonic() < limit:
            list(self._ended())
            time.sleep(0.005)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        self._children.clear()

    def _tell(self, message: Message) -> None:
        self._control.send(json.dumps(message).encode())


def warm_up() -> None:
    """Import what every rank needs.

    Raises:
        ImportError: when torch is not installed.
    """
    for name in NEEDED:
        importlib.import_module(name)
    for name in (*LATER, *_welcome()):
        try:
            importlib.import_module(name)
        except Exception:
            traceback.print_exc()  # into the log; a rank that needs it says so properly
    gc.collect()
    gc.freeze()  # keeps the pages shared after the fork


def _welcome() -> Iterator[str]:
    for room in WELCOME:
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
            yield module.name


def main(arguments: list[str]) -> None:
    """``python -m holmes.launch.zygote <control file descriptor>``."""
    descriptor = int(arguments[0])
    os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=descriptor)
    try:
        warm_up()
    except ImportError as error:
        control.send(json.dumps({"event": "failed", "reason": str(error)}).encode())
        return
    Zygote(control).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no child is left; taking torch down in order costs the caller its patience


if __name__ == "__main__":
    main(sys.argv[1:])
