"""Rendezvous: ranks find each other, and make sure that they belong together.

Nothing that comes over the store is trusted before the roll call is complete: every rank
shows that it knows the secret of the run, belongs to the generation that the run is in, and
has the same code, configuration and torch as the others. The keys of a generation stand
under a prefix that follows from the secret. This keeps strangers and leftovers out of the
rendezvous; it does not encrypt or sign what ranks send each other afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from holmes.errors import ConfigError, UnavailableError
from holmes.runtime.clock import boot_id

LEAVE = timedelta(seconds=5)
BACKLOG = 2048


@dataclass(frozen=True)
class Rendezvous:
    """Where ranks meet: the store listens at address:port in the process that hosts it.

    Attributes:
        hosts_store: where nobody does (torchrun's agent keeps the store) all connect.
        attempt: restarts by a launcher that keeps its store, so that keys of an earlier
            try are not mistaken for this one's.
        generation: of the run; None: learnt from a rank that knows it.
        secret: of the run; empty where its launcher has no way to hand one out.
        identity: what must be equal on all ranks, by what it is called.
    """

    address: str
    port: int
    hosts_store: bool
    attempt: int = 0
    generation: int | None = 0
    secret: str = field(default="", repr=False)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"

    def sign(self, *words: object) -> str:
        """What only those who know the secret can say of these words."""
        text = json.dumps([str(word) for word in words]).encode()
        return hmac.new(self.secret.encode(), text, hashlib.sha256).hexdigest()


def meet(rendezvous: Rendezvous, world_size: int, seconds: float) -> tuple[Store, int]:
    """The store of this generation of ranks, and its number.

    The store listens on the address that the others are told, on no other; a rank that is
    alone keeps it in its memory.

    Raises:
        UnavailableError: the port is busy, or nobody listens there.
    """
    if world_size == 1:
        return HashStore(), rendezvous.generation or 0
    store = PrefixStore(
        f"attempt/{rendezvous.attempt}/{rendezvous.sign('prefix')[:16]}",
        _open_store(rendezvous, world_size, timedelta(seconds=seconds)),
    )
    if rendezvous.generation is not None:
        generation = rendezvous.generation
        store.set("generation", str(generation))
    else:
        try:
            generation = int(store.get("generation"))
        except (RuntimeError, ValueError) as error:
            raise UnavailableError(
                f"nobody said at {rendezvous.where} which start of the run this is",
                where=rendezvous.where,
                why=str(error).strip().splitlines()[0],
                next_step="look at the log of launch rank 0; HOLMES_SECRET must be the same "
                "on all nodes",
            ) from error
    return PrefixStore(f"generation/{generation}", store), generation


def _open_store(rendezvous: Rendezvous, world_size: int, timeout: timedelta) -> Store:
    listening = _listen(rendezvous) if rendezvous.hosts_store else None
    try:
        return TCPStore(
            rendezvous.address,
            rendezvous.port,
            world_size,
            is_master=rendezvous.hosts_store,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listening.detach() if listening is not None else None,
        )
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"cannot meet at {rendezvous.where}",
            where=rendezvous.where,
            why=str(error).strip().splitlines()[0],
            next_step="check MASTER_ADDR and MASTER_PORT",
        ) from error


def _listen(rendezvous: Rendezvous) -> socket.socket:
    """A socket of this address alone: left to itself the store would listen on all of them.

    A host name that this host itself resolves to its loopback, as some distributions have it,
    says nothing about where the others will knock: then it is all of them.
    """
    where = rendezvous.where
    try:
        family, _, _, _, address = socket.getaddrinfo(
            rendezvous.address, rendezvous.port, type=socket.SOCK_STREAM
        )[0]
        named = rendezvous.address not in (str(address[0]), "localhost")
        if named and str(address[0]).startswith("127."):
            address = ("", rendezvous.port)
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        raise UnavailableError(
            f"the rendezvous port {where} is in use" if busy else f"cannot listen on {where}",
            where=where,
            why=error.strerror or str(error),
            next_step="choose another port (MASTER_PORT)" if busy else "check MASTER_ADDR",
        ) from error
    return listening


def roll_call(
    store: Store,
    rendezvous: Rendezvous,
    rank: int,
    nodes: Sequence[str],
    problem: str | None,
) -> list[str]:
    """Tell everybody who this rank is and whether it can start, hear the same from all.

    Args:
        nodes: node name by rank.
        problem: why this rank cannot start, or None.

    Returns:
        The boot id of every rank's machine.

    Raises:
        UnavailableError: the same on every rank, when one of them cannot start, did not
            come, or does not know the secret.
        ConfigError: the same on every rank, when they are not all alike.
    """
    said = {"problem": problem, "boot": boot_id(), "identity": dict(rendezvous.identity)}
    text = json.dumps(said)
    proof = rendezvous.sign("roll", rank, text)
    store.set(f"roll/{rank}", json.dumps({"said": text, "proof": proof}))
    answers = [_answer(store, rendezvous, rank, other, nodes[other]) for other in range(len(nodes))]
    problems = {other: said["problem"] for other, said in enumerate(answers) if said["problem"]}
    unlike = _unlike(answers)
    if problems or unlike:
        _leave_together(store, rank, len(nodes))
    if problems:
        other, text = next(iter(problems.items()))
        raise UnavailableError(
            text,
            where=f"rank {other}",
            next_step="give the interface names of the node in the site file "
            "(`interfaces` of the nics entry)",
        )
    if unlike:
        other, name = unlike
        raise ConfigError(
            f"rank {other} on {nodes[other]} has another {name} than rank 0 on {nodes[0]}",
            where=f"{name}: {answers[other]['identity'].get(name)} "
            f"instead of {answers[0]['identity'].get(name)}",
            why="their results would be mixed",
            next_step="install the same version of everything, and give all nodes the same job",
        )
    return [str(said["boot"]) for said in answers]


def _answer(
    store: Store, rendezvous: Rendezvous, rank: int, other: int, node: str
) -> dict[str, Any]:
    try:
        heard = json.loads(store.get(f"roll/{other}"))
    except RuntimeError as error:
        raise UnavailableError(
            f"rank {other} on {node} did not come to the rendezvous",
            where=f"rank {rank}",
            why=str(error).strip().splitlines()[0],
            next_step="look at its log",
        ) from error
    if not hmac.compare_digest(rendezvous.sign("roll", other, heard["said"]), heard["proof"]):
        raise UnavailableError(
            f"rank {other} on {node} does not know the secret of this run",
            where=f"rank {rank}",
            why="it is of another run, or no rank at all",
            next_step="HOLMES_SECRET must be the same on all nodes",
        )
    said: dict[str, Any] = json.loads(heard["said"])
    return said


def _unlike(answers: Sequence[Mapping[str, Any]]) -> tuple[int, str] | None:
    """The first rank that differs from rank 0, and in what."""
    first = answers[0]["identity"]
    for rank, said in enumerate(answers):
        for name in sorted({*first, *said["identity"]}):
            if said["identity"].get(name) != first.get(name):
                return rank, name
    return None


def _leave_together(store: Store, rank: int, world: int) -> None:
    """Let every rank read the reason before the one that hosts the store goes away."""
    store.set(f"left/{rank}", "")
    with suppress(RuntimeError):
        store.wait([f"left/{other}" for other in range(world)], LEAVE)
