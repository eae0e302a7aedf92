"""What torch.distributed is given so that one group uses one interface.

Gloo: a registered backend whose options name the interface (`new_group` ignores
`pg_options` for plain gloo). NCCL: `config.net_name`, the network module, per group;
HCA and interface names are process-wide variables, set before the process starts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import Backend as NativeBackend

from holmes.errors import UnavailableError

GLOO_NIC = "gloo_nic"
GLOO_THREADS = 2


class NicOptions(NativeBackend.Options):  # type: ignore[misc, unused-ignore]
    """Options of a gloo group: the interface that carries it."""

    def __init__(self, interface: str, timeout: timedelta) -> None:
        super().__init__(GLOO_NIC, timeout)
        self.interface = interface


def register_gloo_nic() -> None:
    """Make the backend known to torch.distributed; calling it again changes nothing."""
    if not hasattr(dist.Backend, GLOO_NIC.upper()):
        dist.Backend.register_backend(GLOO_NIC, _create, extended_api=True, devices=["cpu"])


def _create(wanted: Any, options: NicOptions) -> Any:
    from torch.distributed import ProcessGroupGloo

    gloo: Any = ProcessGroupGloo
    native = gloo._Options()
    native._timeout = options._timeout
    native._threads = GLOO_THREADS
    native._devices = [gloo.create_device(interface=options.interface)]
    group = gloo(wanted.store, wanted.group_rank, wanted.group_size, native)
    group._set_sequence_number_for_group()
    return group


def nccl_options(net_name: str | None, timeout: timedelta) -> Any:
    """Options of an NCCL group on a network module (``IB``, ``Socket``); None: NCCL chooses.

    ``timeout`` is the watchdog's: it aborts the group and must not come before the
    deadline that the caller waits with, which names the ranks.

    Raises:
        UnavailableError: this torch has no NCCL, or cannot choose the module per group.
    """
    library: Any = getattr(dist, "ProcessGroupNCCL", None)
    if library is None:
        raise UnavailableError(
            "this build of torch has no NCCL",
            where="torch.distributed.ProcessGroupNCCL",
            next_step="install torch with CUDA, or train on CPU",
        )
    native = library.Options()
    native._timeout = timeout
    if net_name is not None:
        if not hasattr(native.config, "net_name"):
            raise UnavailableError(
                f"this torch cannot put a group on NCCL's network module {net_name}",
                where="ProcessGroupNCCL.Options().config",
                why="it has no net_name, so every group would use the same network",
                next_step="install torch 2.11 or newer",
            )
        native.config.net_name = net_name
    return native


def leave_groups(*, failed: bool) -> None:
    """Destroy all groups of this process.

    After a failure NCCL's are aborted: destroying waits for transfers that never end.
    """
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if failed and abort is not None and dist.get_backend() == "nccl":
        abort()
    else:
        dist.destroy_process_group()
