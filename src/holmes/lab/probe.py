"""What this machine allows a lab to do: tried on a lab of two hosts, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

from holmes.errors import UnavailableError
from holmes.hardware.site import Cluster, Device, Fabric, Nic, Rehearsal, Site
from holmes.lab.lab import Isolation, Lab
from holmes.lab.quota import Quotas

_SMALLEST = Site(
    name="probe",
    clusters=(
        Cluster(
            name="probe",
            nodes=2,
            device=Device(kind="cpu-core"),
            nics=(Nic(kind=Fabric.ETHERNET, gbit_s=1.0),),
        ),
    ),
    rehearsal=Rehearsal(scale=1.0),
)


@dataclass(frozen=True)
class Capabilities:
    """What a lab can do here.

    ``isolation`` is what ``Isolation.AUTO`` would choose; ``missing`` has one
    sentence for everything that is not allowed.
    """

    isolation: Isolation
    shaped: bool
    quotas: bool
    missing: tuple[str, ...]


def capabilities() -> Capabilities:
    """Bring up the smallest lab in every way, best first; about a second."""
    missing = []
    lab = None
    for isolation in (Isolation.ROOT, Isolation.USER, Isolation.LOOPBACK):
        try:
            lab = Lab.up(_SMALLEST, isolation=isolation)
            break
        except UnavailableError as error:
            missing.append(f"{isolation}: {error.why}")
    assert lab is not None, "a loopback lab is always possible"
    with lab:
        if not lab.shaped:
            missing.append(lab.reason)
        groups = Quotas()
        limited = groups.limit("probe", 1.0)
        groups.close()
        if not limited:
            missing.append(groups.reason)
        return Capabilities(lab.isolation, lab.shaped, limited, tuple(missing))
