"""Which interfaces of a host have a carrier; run as a program, because it enters the host.

python -m holmes.lab.carrier NAMESPACE ...     prints {"eth0": true, ...}
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

from holmes.lab.namespace import enter

SIOCGIFFLAGS = 0x8913
RUNNING = 0x40
SECONDS = 5.0


def carriers(hosts: Sequence[Sequence[str]]) -> list[dict[str, bool]]:
    """Of each host, given by its namespace files, whether its interfaces have a carrier.

    All are asked at once; one that does not answer in time gives an empty dict.
    """
    asked = [
        subprocess.Popen(
            [sys.executable, "-m", "holmes.lab.carrier", *paths],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for paths in hosts
    ]
    return [_answer(process) for process in asked]


def _answer(process: subprocess.Popen[str]) -> dict[str, bool]:
    try:
        out, _ = process.communicate(timeout=SECONDS)
        return {str(name): bool(up) for name, up in json.loads(out).items()}
    except (ValueError, subprocess.TimeoutExpired):
        process.kill()
        process.communicate()
        return {}


def own_carriers() -> dict[str, bool]:
    """The same of this process's own interfaces."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("16sh14x", name.encode(), 0)
            try:
                answer = fcntl.ioctl(asking, SIOCGIFFLAGS, request)
            except OSError:
                continue
            found[name] = bool(struct.unpack_from("h", answer, 16)[0] & RUNNING)
    return found


if __name__ == "__main__":
    for path in sys.argv[1:]:
        enter(path, 0)
    print(json.dumps(own_carriers()))
