"""Layout and the wishes that a plan was made under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holmes.errors import ConfigError
from holmes.schedule.form import ScheduleName as ScheduleName
from holmes.schedule.sharding import Shards

Sharding = Literal["none", "optimizer", "gradients", "parameters", "hybrid", "three-level"]
Quantize = Literal["none", "int8", "int4"]
Order = Literal["cluster", "launch", "scattered"]
TransportRule = Literal["per-group", "common"]
PartitionRule = Literal["exact", "proportional", "even"]
Recompute = Literal["none", "selective", "full"]
ContextAlgorithm = Literal["rsa", "ring", "ulysses"]
Overlap = bool


@dataclass(frozen=True)
class Layout:
    """Degrees of the axes. Logical rank = ((pipeline * dp + data) * cp + context) * tp +
    tensor: tensor fastest, then context, data, pipeline.

    ``ep`` divides the replicas, ``dp * cp``, and takes no devices of its own: of every ``ep``
    neighbouring replicas each holds its part of the experts, and the rest of the model whole.
    Context ranks are neighbours first, as in Megatron-Core.

    ``shard`` are sizes of nested groups of replicas: of one that shares weights and
    gradients (hybrid), of those that share weights and gradients (three-level).
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    shard: tuple[int, ...] = ()

    @property
    def devices(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def replicas(self) -> int:
        """Ranks that hold the same parameters: those of the data and the context axis."""
        return self.dp * self.cp

    @property
    def of_experts(self) -> Layout:
        """The layout as one expert sees it: only one of ``ep`` replicas holds it."""
        return Layout(self.tp, self.pp, self.replicas // self.ep)

    def rank(self, pipeline: int, data: int, tensor: int = 0, context: int = 0) -> int:
        """The logical rank at these coordinates."""
        return ((pipeline * self.dp + data) * self.cp + context) * self.tp + tensor

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """(pipeline, data, tensor) of a logical rank."""
        replica, tensor = divmod(rank, self.tp)
        pipeline, data = divmod(replica // self.cp, self.dp)
        return pipeline, data, tensor

    def context(self, rank: int) -> int:
        """Place of a logical rank in its context group."""
        return rank // self.tp % self.cp

    def replica(self, rank: int) -> int:
        """Place of a logical rank among those that hold the same parameters."""
        return rank // self.tp % self.replicas

    def shards(self, sharding: Sharding) -> Shards:
        """Over how many replicas each state of a parameter is divided.

        Without sizes in ``shard`` all replicas are one group.

        Raises:
            ConfigError: sizes that do not nest, or that this level does not have.
        """
        d = self.replicas
        wanted = {"hybrid": 1, "three-level": 2}.get(sharding, 0)
        sizes = self.shard or (d,) * wanted
        if len(sizes) != wanted:
            raise _wrong_sizes(self.shard, sharding, f"it takes {wanted} size(s)")
        try:
            if sharding == "hybrid":
                return Shards(d, sizes[0], sizes[0], sizes[0])
            if sharding == "three-level":
                return Shards(d, sizes[0], sizes[1], d)
        except ValueError:
            why = f"each must divide the next, and the last the {d} replicas"
            raise _wrong_sizes(sizes, sharding, why) from None
        divided = {"gradients": (1, d), "parameters": (d, d)}.get(sharding, (1, 1))
        return Shards(d, *divided, d)


def _wrong_sizes(sizes: tuple[int, ...], sharding: Sharding, why: str) -> ConfigError:
    return ConfigError(
        f"shard groups of {', '.join(map(str, sizes))} ranks for sharding {sharding}",
        where="parallel.shard_groups",
        why=why,
        next_step="leave shard_groups out, and the site's links decide",
    )


@dataclass(frozen=True)
class Wishes:
    """What the user fixed; None means the planner chooses.

    ``rank_map`` forces the placement of every logical rank; ``meshes`` are tensor and data
    degrees of each stage, where these differ.
    """

    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    context: int | None = None
    context_algorithm: ContextAlgorithm | None = None
    expert: int | None = None
    sharding: Sharding | None = None
    schedule: ScheduleName | None = None
    virtual_stages: int | None = None
    extra_warmup: int | None = None
    recompute: Recompute | None = None
    order: Order | None = None
    transport: TransportRule | None = None
    partition: PartitionRule | None = None
    overlap: bool | None = None
    rank_map: tuple[int, ...] | None = None
    bucket_mb: float | None = None
    scatter_gather: bool | None = None
    tensor_chunks: int | None = None
    meshes: tuple[tuple[int, int], ...] = ()
    shard_groups: tuple[int, ...] | None = None
    quantize: Quantize | None = None


BUNDLES: dict[str, dict[str, object]] = {
    "holmes": {
        "order": "cluster",
        "transport": "per-group",
        "partition": "exact",
        "overlap": True,
    },
    "megatron": {
        "order": "launch",
        "transport": "common",
        "partition": "even",
        "overlap": False,
        "extra_warmup": 0,
    },
    "scattered": {
        "order": "scattered",
        "transport": "per-group",
        "partition": "even",
        "overlap": False,
        "extra_warmup": 0,
    },
}
"""`--placement NAME`: named settings of order, transport, partition, overlap and warm-up."""
