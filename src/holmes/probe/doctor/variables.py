"""NCCL and gloo variables that contradict the machine or the site.

NCCL reads most of its variables once per process, so one that is set in a shell profile
overrules the plan's choice for every group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node
from holmes.launch.variables import OWN_DEADLINES
from holmes.probe.doctor.finding import Finding, fail, ok, warn
from holmes.probe.doctor.state import MachineState

SLOW_SWITCHES = {
    "NCCL_P2P_DISABLE": "devices of a node would not reach each other directly",
    "NCCL_SHM_DISABLE": "devices of a node would talk over the network",
    "NCCL_NET_GDR_LEVEL": "whether RDMA reaches device memory is decided by hand",
}


def check_variables(state: MachineState, node: Node | None) -> Iterator[Finding]:
    """Every variable that stands in the plan's way; one ok where none does."""
    found = [
        *_socket_names(state, node),
        *_adapters(state),
        *_network(state.environ, node),
        *_switches(state.environ),
        *_deadlines(state.environ),
    ]
    yield from found
    if not found:
        names = [name for name in state.environ if name.startswith(("NCCL", "GLOO"))]
        yield ok("variables", f"nothing in the way ({', '.join(names) or 'none set'})")


def selects(pattern: str, interfaces: tuple[str, ...]) -> tuple[str, ...]:
    """The interfaces that a value of ``NCCL_SOCKET_IFNAME`` or ``NCCL_IB_HCA`` selects.

    A list of prefixes; ``=`` before it asks for exact names, ``^`` takes all others. A port
    after a colon (``mlx5_0:1``) is left out of the comparison.
    """
    exact, others = "=" in pattern[:2], "^" in pattern[:2]
    wanted = [name.partition(":")[0] for name in pattern.lstrip("=^").split(",") if name]

    def hit(name: str) -> bool:
        return any(name == each if exact else name.startswith(each) for each in wanted)

    return tuple(name for name in interfaces if hit(name) != others)


def _socket_names(state: MachineState, node: Node | None) -> Iterator[Finding]:
    present = tuple(nic.interface for nic in state.nics)
    mine = node.interfaces(Fabric.ETHERNET) if node is not None else ()
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = state.environ.get(variable)
        if value is None:
            continue
        if variable.startswith("GLOO"):
            chosen = tuple(name for name in present if name == value)
        else:
            chosen = selects(value, present)
        if not chosen and value != "lo":
            yield fail(
                "variables",
                f"{variable}={value} selects none of {', '.join(present) or 'no interfaces'}",
                f"unset {variable}, or name an interface of this machine",
            )
        elif mine and not set(chosen) & set(mine):
            yield warn(
                "variables",
                f"{variable}={value} selects {', '.join(chosen)}; the site's Ethernet is "
                f"{', '.join(mine)}",
                f"unset {variable}: the start script sets it from the site",
            )


def _adapters(state: MachineState) -> Iterator[Finding]:
    value = state.environ.get("NCCL_IB_HCA")
    names = tuple(dict.fromkeys(hca.name for hca in state.hcas))
    if value is not None and not selects(value, names):
        yield fail(
            "variables",
            f"NCCL_IB_HCA={value} selects no adapter; here are {', '.join(names) or 'none'}",
            "unset NCCL_IB_HCA: the start script sets it from the site",
        )


def _network(environ: Mapping[str, str], node: Node | None) -> Iterator[Finding]:
    fast = (
        [] if node is None else [n.kind for n in node.group.nics if n.kind is not Fabric.ETHERNET]
    )
    if environ.get("NCCL_IB_DISABLE", "0") != "0" and fast:
        yield fail(
            "variables",
            f"NCCL_IB_DISABLE is set, but the site gives this node {fast[0].value}",
            "unset NCCL_IB_DISABLE, or every group uses TCP",
        )
    value = environ.get("NCCL_NET")
    if value is not None:
        yield fail(
            "variables",
            f"NCCL_NET={value} puts every group on one network module",
            "unset NCCL_NET: the plan chooses the network of each group",
        )
    if Fabric.ROCE in fast and "NCCL_IB_GID_INDEX" not in environ:
        yield warn(
            "variables",
            "the node has RoCE and NCCL_IB_GID_INDEX is not set",
            "see show_gids for the RoCE v2 entry; the start script assumes 3",
        )


def _switches(environ: Mapping[str, str]) -> Iterator[Finding]:
    for name, what in SLOW_SWITCHES.items():
        if environ.get(name, "0") != "0":
            yield warn("variables", f"{name}={environ[name]}: {what}", f"unset {name}")


def _deadlines(environ: Mapping[str, str]) -> Iterator[Finding]:
    for name, value in OWN_DEADLINES.items():
        if environ.get(name, value) != value:
            yield warn(
                "variables",
                f"{name}={environ[name]}: torch may end a rank before Holmes can say which "
                "rank it waited for",
                f"export {name}={value}",
            )
