"""Faults that a rehearsal can inject: one registry, one grammar.

    kill:rank=2@step=5,phase=backward      rate:host=roce-0,nic=ethernet,share=0.5@step=10
    loss:link=ib-roce,percent=1@step=5

Before the ``@`` stands what breaks, behind it when. This is the only place that knows
the names; who carries a fault out is said by :attr:`Kind.by`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from holmes.errors import ConfigError, suggestion
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Topology

InnerPhase = Literal["forward", "backward", "communicate", "step"]
OuterPhase = Literal[
    "start", "join", "load", "loader", "copy", "write", "fsync", "marker", "latest", "exit"
]
Phase = Literal[InnerPhase, OuterPhase]
PHASES: tuple[Phase, ...] = get_args(InnerPhase)
"""Of a step's instructions."""
OUTER_PHASES: tuple[Phase, ...] = get_args(OuterPhase)
"""Before the rendezvous, after it, before the state is loaded, as a batch is read, in a save,
after the last step. For kill and freeze."""
FIRST_ONLY: frozenset[Phase] = frozenset({"marker", "latest"})
"""Acts of rank 0; a fault of another rank happens while rank 0 is there."""
MOST_TIMES = 1001
MOST_MS = 10_000.0
EXAMPLE = "kill:rank=2@step=5,phase=backward"


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        help: what happens.
        needs, may: keys before the ``@`` that have to, or can, be given.
        by: ``rank``: the rank does it to itself at an exact instruction, so it takes
            a phase; ``lab``: the rehearsal does it once the step before is complete.
    """

    help: str
    needs: frozenset[str]
    may: frozenset[str]
    by: Literal["rank", "lab"]


_PLACE = "a NIC of a host (host=, nic=) or a link between clusters (link=)"


def _placed(value: str) -> frozenset[str]:
    return frozenset({"host", "nic", "link", value})


KINDS: Mapping[str, Kind] = {
    "kill": Kind("SIGKILL to a rank", frozenset({"rank"}), frozenset({"times"}), "rank"),
    "freeze": Kind("SIGSTOP to a rank", frozenset({"rank"}), frozenset({"times"}), "rank"),
    "nan": Kind("a NaN in a gradient of a rank", frozenset({"rank"}), frozenset({"times"}), "rank"),
    "flip": Kind(
        "bit `bit` (0 to 31) of a gradient of a rank flips",
        frozenset({"rank"}),
        frozenset({"bit", "times"}),
        "rank",
    ),
    "corrupt": Kind(
        "bit `bit` (0 to 31) of a parameter flips in the copy of a rank",
        frozenset({"rank"}),
        frozenset({"bit", "times"}),
        "rank",
    ),
    "slow": Kind(
        "a rank computes at `share` of its speed", frozenset({"rank"}), frozenset({"share"}), "rank"
    ),
    "cpu": Kind(
        "a rank gets `share` of a core (a kernel quota)",
        frozenset({"rank"}),
        frozenset({"share"}),
        "lab",
    ),
    "rate": Kind(f"{_PLACE} runs at `share`", frozenset(), _placed("share"), "lab"),
    "loss": Kind(
        f"`percent` of the frames of {_PLACE} are lost, each way",
        frozenset(),
        _placed("percent"),
        "lab",
    ),
    "latency": Kind(
        f"frames of {_PLACE} take `ms` longer, each way", frozenset(), _placed("ms"), "lab"
    ),
    "jitter": Kind(
        f"frames of {_PLACE} take up to `ms` longer, each way, and stay in order",
        frozenset(),
        _placed("ms"),
        "lab",
    ),
    "cut": Kind(
        "a NIC of a host loses its carrier", frozenset({"host", "nic"}), frozenset(), "lab"
    ),
    "host": Kind(
        "a host is gone: its ranks and all its cards; it is back once step `back` - 1 is complete",
        frozenset({"host"}),
        frozenset({"back"}),
        "lab",
    ),
}


@dataclass(frozen=True)
class Fault:
    """One fault, checked against a site. ``rank`` is a logical rank, ``host`` a node name.

    A host is gone until ``back`` steps are complete (None: for good). Any other fault happens
    once in each of the first ``times`` generations of ranks that reach its step.
    """

    text: str
    kind: str
    step: int
    phase: Phase | None = None
    rank: int | None = None
    host: str | None = None
    nic: Fabric | None = None
    link: int | None = None
    share: float = 0.5
    times: int = 1
    back: int | None = None
    bit: int = 30
    percent: float = 1.0
    ms: float = 10.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "fault": self.text,
            "kind": self.kind,
            "step": self.step,
            "phase": self.phase,
            "rank": self.rank,
            "host": self.host,
            "nic": None if self.nic is None else self.nic.value,
            "link": self.link,
            "share": self.share if "share" in KINDS[self.kind].may else None,
            "times": self.times,
            "back": self.back,
            "bit": self.bit if "bit" in KINDS[self.kind].may else None,
            "percent": self.percent if "percent" in KINDS[self.kind].may else None,
            "ms": self.ms if "ms" in KINDS[self.kind].may else None,
        }


def parse_faults(texts: Sequence[str], topology: Topology, steps: int) -> tuple[Fault, ...]:
    """Parse and check faults.

    Args:
        steps: of the run; a fault has to fall inside.

    Raises:
        ConfigError: naming the fault and the part of it that is wrong.
    """
    return tuple(_parse(text, topology, steps) for text in texts)


def _parse(text: str, topology: Topology, steps: int) -> Fault:
    head, at, when = text.partition("@")
    name, _, what = head.partition(":")
    if name not in KINDS:
        raise _wrong(text, f"there is no fault {name!r}", _near(name, KINDS))
    kind = KINDS[name]
    if not at:
        raise _wrong(text, "it does not say when", f"add @step=N, as in {EXAMPLE}")
    where = _pairs(text, what, kind.needs | kind.may)
    missing = sorted(kind.needs - where.keys())
    if missing:
        raise _wrong(text, f"{name} needs {' and '.join(missing)}=", f"{name}: {kind.help}")
    moment = _pairs(text, when, {"step", "phase"} if kind.by == "rank" else {"step"})
    if "step" not in moment:
        raise _wrong(text, "it names no step", f"add step=N, as in {EXAMPLE}")
    if "link" in kind.may and ("link" in where) == bool(where.keys() & {"host", "nic"}):
        raise _wrong(text, f"{name} needs either host= and nic=, or link=", kind.help)
    fault = Fault(
        text,
        name,
        step=_integer(text, "step", moment["step"], steps),
        phase=_phase(text, moment.get("phase")),
        rank=_optional(text, "rank", where, len(topology.devices)),
        link=_link(text, where, topology),
        share=_between(text, "share", where.get("share", "0.5"), 1.0),
        percent=_between(text, "percent", where.get("percent", "1"), 100.0),
        ms=_between(text, "ms", where.get("ms", "10"), MOST_MS),
        times=_optional(text, "times", where, MOST_TIMES) or 1,
        bit=_integer(text, "bit", where.get("bit", "30"), 32),
        back=_optional(text, "back", where, steps),
        **(_host(text, where, topology) if name == "host" else _card(text, where, topology)),
    )
    if fault.phase in OUTER_PHASES and name not in ("kill", "freeze"):
        raise _wrong(text, f"{name} cannot happen there", f"choose from {', '.join(PHASES)}")
    if fault.back is not None and fault.back <= fault.step:
        raise _wrong(text, "it is back before it is gone", "give a back= after step=")
    return fault


def _pairs(text: str, part: str, known: frozenset[str] | set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in part.split(",") if part else []:
        key, equals, value = word.partition("=")
        if key not in known:
            hint = _near(key, known) or f"known here: {', '.join(sorted(known))}"
            raise _wrong(text, f"unknown key {key!r}", hint)
        if not equals or not value:
            raise _wrong(text, f"{key} has no value", f"write {key}=VALUE")
        if key in found:
            raise _wrong(text, f"{key} is given twice", "leave one of them out")
        found[key] = value
    return found


def _integer(text: str, key: str, value: str, limit: int) -> int:
    if not value.isdecimal() or int(value) >= limit:
        raise _wrong(
            text, f"{key}={value} is not possible", f"give a whole number from 0 to {limit - 1}"
        )
    return int(value)


def _optional(text: str, key: str, given: Mapping[str, str], limit: int) -> int | None:
    if key not in given:
        return None
    if limit == 0:
        raise _wrong(text, f"the site has no {key}", "leave it out")
    return _integer(text, key, given[key], limit)


def _phase(text: str, value: str | None) -> Phase | None:
    if value is None:
        return None
    for phase in (*PHASES, *OUTER_PHASES):
        if phase == value:
            return phase
    raise _wrong(text, f"there is no phase {value!r}", _near(value, (*PHASES, *OUTER_PHASES)))


def _between(text: str, key: str, value: str, limit: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0.0 < number < limit:
        raise _wrong(
            text, f"{key}={value} is not possible", f"give a number between 0 and {limit:g}"
        )
    return number


def _link(text: str, given: Mapping[str, str], topology: Topology) -> int | None:
    """A link by its number in the site, or as ``<cluster>-<cluster>``."""
    links = topology.site.links
    names = {"-".join(ends): i for i, link in enumerate(links) for ends in _both(link.between)}
    word = given.get("link", "")
    if word in names:
        return names[word]
    if word and links and not word.isdecimal():
        raise _wrong(text, f"the site has no link {word!r}", _near(word, names))
    return _optional(text, "link", given, len(links))


def _both(ends: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    return ends, (ends[1], ends[0])


def _host(text: str, given: Mapping[str, str], topology: Topology) -> dict[str, Any]:
    names = [node.name for node in topology.nodes]
    if given["host"] not in names:
        raise _wrong(text, f"the site has no host {given['host']!r}", _near(given["host"], names))
    return {"host": given["host"]}


def _card(text: str, given: Mapping[str, str], topology: Topology) -> dict[str, Any]:
    if "host" not in given and "nic" not in given:
        return {}
    if not {"host", "nic"} <= given.keys():
        raise _wrong(text, "a NIC needs host= and nic=", "for example host=a-0,nic=ethernet")
    nodes = {node.name: node for node in topology.nodes}
    host = given["host"]
    if host not in nodes:
        raise _wrong(text, f"the site has no host {host!r}", _near(host, nodes))
    kinds = {nic.kind.value: nic.kind for nic in nodes[host].group.nics}
    if given["nic"] not in kinds:
        raise _wrong(
            text, f"host {host} has no {given['nic']} card", f"it has {', '.join(sorted(kinds))}"
        )
    return {"host": host, "nic": kinds[given["nic"]]}


def _near(word: str, known: Any) -> str:
    found = suggestion(word, known)
    listed = f"choose from {', '.join(sorted(known))}"
    return f"did you mean {found!r}? {listed}" if found else listed


def _wrong(text: str, what: str, hint: str) -> ConfigError:
    return ConfigError(f"cannot inject {text!r}: {what}", where="--inject", next_step=hint)
