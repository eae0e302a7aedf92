"""The collectives of one bucket on the wire: as they are, or in quantised blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from holmes.plan.layout import Quantize
from holmes.plan.sharding import BITS
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.sharding.quantize import pack, packed_bytes, unpack


class Wire:
    """Moves weights and gradients; keeps scratch memory for each group it is used with.

    Lanes call it, each with its own group.
    """

    def __init__(self, quantize: Quantize) -> None:
        self._weight_bits, self._gradient_bits = BITS[quantize]
        self._scratch: dict[str, Tensor] = {}

    def gather_weights(self, bucket: FlatBucket, comm: Communicator) -> None:
        """Fill the whole weights from what the members of the inner group keep.

        Quantised, everybody uses what went over the wire, also for its own part: all
        members compute with the same weights.
        """
        whole, bits = bucket.open_weights(), self._weight_bits
        if bits is None:
            collectives.own_chunk(comm, whole).copy_(bucket.kept)
            collectives.all_gather(comm, whole)
            return
        size = packed_bytes(bucket.kept.numel(), bits)
        packed = torch.empty(comm.size * size, dtype=torch.uint8, device=whole.device)
        pack(bucket.kept, bits, collectives.own_chunk(comm, packed))
        collectives.all_gather(comm, packed)
        for part, values in zip(packed.chunk(comm.size), whole.chunk(comm.size), strict=True):
            unpack(part, bits, values)

    def reduce_gradients(self, bucket: FlatBucket, comm: Communicator) -> None:
        """Add the middle group's gradients of a micro-batch to the sums of this rank's part."""
        order = bucket.shards.order
        if self._gradient_bits is None:
            scratch = self._scratch_for(comm, bucket.gradients)
            total = collectives.reduce_scatter(comm, bucket.gradients, scratch, order)
            bucket.sums.add_(total)
        else:
            self._reduce_packed(bucket, comm, self._gradient_bits, order)
        bucket.close_gradients()

    def sum_across(self, bucket: FlatBucket, comm: Communicator) -> None:
        """Sum over the middle groups, in place: all of the part, or what this rank updates."""
        if bucket.shards.states == bucket.shards.gradients:
            collectives.all_reduce(comm, bucket.sums)
        else:
            scratch = self._scratch_for(comm, bucket.sums)
            collectives.reduce_scatter(comm, bucket.sums, scratch)

    def _reduce_packed(
        self, bucket: FlatBucket, comm: Communicator, bits: int, order: tuple[int, ...]
    ) -> None:
        """One hop: each value is quantised once, by its owner, and added up in full width."""
        chunks = bucket.gradients.chunk(comm.size)
        size = packed_bytes(bucket.sums.numel(), bits)
        both = torch.empty(2 * comm.size, size, dtype=torch.uint8, device=bucket.sums.device)
        outgoing, incoming = list(both[: comm.size]), list(both[comm.size :])
        for member, number in enumerate(order):
            if member != comm.index:
                pack(chunks[number], bits, outgoing[member])
        collectives.all_to_all(comm, outgoing, incoming)
        values = torch.empty_like(bucket.sums)
        for member in range(comm.size):
            if member == comm.index:
                bucket.sums.add_(chunks[order[member]])
            else:
                unpack(incoming[member], bits, values)
                bucket.sums.add_(values)

    def _scratch_for(self, comm: Communicator, flat: Tensor) -> Tensor:
        needed = collectives.scratch_elements(flat.numel(), comm.size)
        known = self._scratch.get(comm.name)
        if known is None or known.numel() < needed:
            known = self._scratch[comm.name] = flat.new_empty(needed)
        return known
