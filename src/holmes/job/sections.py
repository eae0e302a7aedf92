"""The sections of a job file: data, batch, optimizer, train, parallel, rehearsal."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from holmes.hardware.site import Number
from holmes.hardware.validation import TEXT_PATTERN
from holmes.plan.layout import (
    Order,
    PartitionRule,
    Quantize,
    Recompute,
    ScheduleName,
    Sharding,
    TransportRule,
)

Degree = Annotated[int, Number, Field(ge=1, le=100_000)]
Steps = Annotated[int, Number, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Number, Field(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Number, Field(ge=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Number, Field(ge=0, le=1e3, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=TEXT_PATTERN)]


class Section(BaseModel):
    """Immutable, unknown keys refused, keys with a Python name accepted by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SourcePart(Section):
    """One text of a mixture. It gives ``weight`` over the sum of weights of the samples."""

    source: Text
    weight: Annotated[float, Number, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    field: Text | None = None
    """None: ``data.field``."""


class Data(Section):
    """Where the text comes from and how it becomes tokens."""

    source: Text | Annotated[tuple[SourcePart, ...], Field(min_length=1, max_length=64)] = (
        "shakespeare"
    )
    """``shakespeare``; a .txt, .jsonl, .parquet or .arrow file; a folder of them, or one that
    the ``datasets`` library saved; or a list of those to mix."""
    field: Text = "text"
    """Of a .jsonl file's objects, or column of a table, that is the document."""
    tokenizer: Text | None = None
    """A tokenizer.json, or a folder with one. None: that of ``model.from``, else one is
    trained on the text."""
    vocabulary: Annotated[int, Number, Field(ge=257, le=1_000_000)] = 2048
    """Size of the byte-pair vocabulary, where it is trained on the text."""
    packing: Literal["windows", "documents"] = "windows"
    """Samples are windows of the text. documents: a token reads its own document alone,
    positions begin anew with each, and its first token is not predicted."""
    document_mb: Annotated[float, Number, Field(gt=0, le=4096, allow_inf_nan=False)] = 256.0
    """The longest document that is not taken for a mistake, in MiB."""
    validation_fraction: Annotated[float, Number, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.05
    cache: Text | None = None
    """Folder of tokenised text; None means the user's cache folder."""
    seed: Seed = 0
    """Order of the samples and choice of the held-out documents."""

    def parts(self) -> tuple[SourcePart, ...]:
        """The texts of the mixture; one source is a mixture of one."""
        given = self.source
        parts = (SourcePart(source=given),) if isinstance(given, str) else given
        return tuple(part.model_copy(update={"field": part.field or self.field}) for part in parts)


class Batch(Section):
    """Samples of one step over all replicas, and of one micro-batch of one replica."""

    global_: Annotated[int, Number, Field(ge=1, le=100_000_000)] = Field(alias="global")
    micro: Annotated[int, Number, Field(ge=1, le=1_000_000)] | None = None
    """None: the planner chooses."""

    @model_validator(mode="after")
    def _divides(self) -> Batch:
        if self.micro is not None and self.global_ % self.micro:
            raise ValueError(f"micro {self.micro} does not divide global {self.global_}")
        return self


class Optimizer(Section):
    """AdamW with a learning-rate schedule. ``clip`` bounds the global norm; None: no clipping."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    min_lr: Rate = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Annotated[float, Number, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-8
    weight_decay: Annotated[float, Number, Field(ge=0, le=10, allow_inf_nan=False)] = 0.1
    clip: Annotated[float, Number, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = 1.0
    warmup_steps: Steps = 0
    decay: Literal["cosine", "constant"] = "cosine"

    @model_validator(mode="after")
    def _ordered(self) -> Optimizer:
        if self.decay == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class Train(Section):
    """How long, how exactly, and what is written on the way; 0 in `*_every` means never."""

    steps: Annotated[int, Number, Field(ge=1, le=1_000_000_000)] = 100
    seed: Seed = 0
    """Initial parameters."""
    precision: Literal["auto", "fp32", "fp64", "bf16", "fp16"] = "auto"
    """bf16 and fp16 are autocast over fp32 parameters, with fp32 sums; fp16 scales the loss.
    auto: fp32 on CPU sites; on GPU sites plans count half-precision mixed training and runs
    use bf16."""
    loss_scale: Annotated[int, Number, Field(ge=1, le=1 << 24)] | None = None
    """First scale of the loss in fp16, a power of two, 65536 if left out; an overflow halves it."""
    loss_scale_steps: Annotated[int, Number, Field(ge=1, le=1_000_000)] | None = None
    """Steps without an overflow after which the scale is doubled, 2000 if left out."""
    deterministic: bool = False
    """Refuse operations of torch whose result may differ from run to run on a GPU."""
    evaluate_every: Steps = 0
    """Steps between evaluations; the last step is always followed by one."""
    evaluate_batches: Annotated[int, Number, Field(ge=0, le=1_000_000)] = 4
    """Validation batches of one evaluation; 0 means no evaluation at all."""
    checkpoint_every: Steps = 0
    """Steps between checkpoints; the last step is always saved."""
    checkpoint_async: bool = True
    """Training goes on while a copy of its state is written; false: it waits."""
    keep_checkpoints: Annotated[int, Number, Field(ge=1, le=100_000)] = 2
    """The newest checkpoints that stay."""
    keep_every: Steps = 0
    """Checkpoints at multiples of this many steps stay, too."""
    tensorboard: bool = False
    prometheus_port: Annotated[int, Number, Field(ge=1024, le=65_535)] | None = None
    """Port of the local host at which rank 0 serves its figures while it trains."""
    threads: Annotated[int, Number, Field(ge=1, le=1024)] = 1
    """Compute threads of one rank."""
    deadline_seconds: Annotated[float, Number, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """Longest wait of one operation on a peer before the run counts as stuck."""
    spike_factor: Annotated[float, Number, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    """Skip a step whose gradient norm is this many times the median of the last 20; 0: never."""
    compare_replicas_every: Steps = 0
    """Steps between comparisons of the parameters that replicas hold alike."""
    max_restarts: Annotated[int, Number, Field(ge=0, le=1000)] = 3
    """Restarts in a row that may bring a run no further before it is given up; 0: none at all."""
    grace_seconds: Annotated[float, Number, Field(gt=0, le=86_400, allow_inf_nan=False)] = 25.0
    """After SIGTERM, for the step under way and its checkpoint."""
    trace_steps: Annotated[int, Number, Field(ge=0, le=1_000_000)] = 3
    """Steps whose spans are written to the trace."""

    @model_validator(mode="after")
    def _scaled_exactly(self) -> Train:
        given = [
            key for key in ("loss_scale", "loss_scale_steps") if getattr(self, key) is not None
        ]
        if given and self.precision != "fp16":
            raise ValueError(f"`{given[0]}` has no effect with precision {self.precision}")
        if self.loss_scale is not None and self.loss_scale & (self.loss_scale - 1):
            raise ValueError(f"loss_scale {self.loss_scale} is no power of two")
        return self


def _rank_list(value: Any) -> Any:
    """``0,2,3,1`` as a list, one number as a list of one; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, str) and value.strip():
        return [part.strip() for part in value.split(",")]
    return value


Degrees = Annotated[
    tuple[Degree, ...], BeforeValidator(_rank_list), Field(min_length=1, max_length=1000)
]


class Parallel(Section):
    """What the user fixes of the layout; what is left out is planned."""

    tensor: Degree | Degrees | None = None
    pipeline: Degree | None = None
    data: Degree | Degrees | None = None
    """`tensor` and `data`: one degree, or a list with one for each pipeline stage."""
    context: Degree | None = None
    expert: Degree | None = None
    sharding: Sharding | None = None
    schedule: ScheduleName | None = None
    virtual_stages: Degree | None = None
    extra_warmup: Annotated[int, Number, Field(ge=0, le=100_000)] | None = None
    context_algorithm: Literal["rsa", "ring", "ulysses"] | None = None
    scatter_gather: bool | None = None
    tensor_chunks: Annotated[int, Number, Field(ge=1, le=1000)] | None = None
    """Parts of a tensor rank's tokens, of which one is computed while the next is gathered or
    summed; 1, the default: collectives and products take turns."""
    recompute: Recompute | None = None
    order: Order | None = None
    transport: TransportRule | None = None
    partition: PartitionRule | None = None
    overlap: bool | None = None
    rank_map: (
        Annotated[
            tuple[Annotated[int, Number, Field(ge=0, le=1_000_000)], ...],
            BeforeValidator(_rank_list),
            Field(min_length=1, max_length=100_000),
        ]
        | None
    ) = None
    shard_groups: (
        Annotated[
            tuple[Degree, ...], BeforeValidator(_rank_list), Field(min_length=1, max_length=2)
        ]
        | None
    ) = None
    """Sizes of the groups of replicas that share weights and gradients: one for hybrid, two
    for three-level (weights, gradients). None: by the site's links."""
    quantize: Quantize | None = None
    """int8: weights are gathered in blocks of 8-bit numbers, off by at most 1/254 of the
    block's largest; int4: gradients are also reduced in 4-bit ones, in one hop, off by 1/14."""
    bucket_mb: Annotated[float, Number, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _usable(self) -> Parallel:
        if self.context_algorithm is not None and self.context in (None, 1):
            raise ValueError(
                "`context_algorithm` has no effect without context ranks; set `context` too"
            )
        lengths = [len(one) for one in (self.tensor, self.data) if isinstance(one, tuple)]
        if lengths and {*lengths, self.pipeline or lengths[0]} != {lengths[0]}:
            raise ValueError("lists of degrees have one for each of the pipeline stages")
        if lengths and not self.data:
            raise ValueError("a list of tensor degrees needs the data degrees too")
        if self.scatter_gather is False and (lengths or self.tensor in (None, 1)):
            raise ValueError(
                "scatter_gather: false is for tensor ranks of equal stages; "
                "otherwise every rank passes its own part on"
            )
        tensors = self.tensor if isinstance(self.tensor, tuple) else (self.tensor or 1,)
        if (self.tensor_chunks or 1) > 1 and max(tensors) == 1:
            raise ValueError("`tensor_chunks` has no effect without tensor ranks; set `tensor` too")
        if self.rank_map is not None and len(set(self.rank_map)) != len(self.rank_map):
            raise ValueError("rank_map names a device twice; each rank needs its own")
        return self


def _port_range(value: Any) -> Any:
    """``20000-31999`` as a pair; anything else as it is."""
    if isinstance(value, str) and value.count("-") == 1:
        return [part.strip() for part in value.split("-")]
    return value


Port = Annotated[int, Number, Field(ge=1024, le=65_535)]


SlurmName = Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@+-]*$")]


class Launch(Section):
    """How the ranks of a launcher find each other, and how long that may take."""

    port: Port = 29_500
    """Port of the rendezvous under torchrun; MASTER_PORT wins."""
    ports: Annotated[tuple[Port, Port], BeforeValidator(_port_range)] = (20_000, 31_999)
    """Under Slurm: the rendezvous takes the one that the job id chooses; MASTER_PORT wins.
    The default stays below the ports that kernels hand out."""
    start_seconds: Annotated[float, Number, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30.0
    """How long ranks wait for each other, and for each group, at the start."""
    account: SlurmName | None = None
    """Under Slurm: whom the job is charged to. None: the user's default, as for the next two."""
    partition: SlurmName | None = None
    """Under Slurm: where it may run."""
    minutes: Annotated[int, Number, Field(ge=1, le=1_000_000)] | None = None
    """Under Slurm: the job's time limit."""

    @model_validator(mode="after")
    def _ordered(self) -> Launch:
        if self.ports[0] > self.ports[1]:
            raise ValueError(f"ports {self.ports[0]}-{self.ports[1]} is an empty range")
        return self


class RehearsalOptions(Section):
    """How ranks compute in a rehearsal.

    ``real`` computes; ``virtual`` sleeps ``forward_ms`` and ``backward_ms`` for
    each transformer block of a micro-batch while the network carries real bytes.
    """

    devices: Literal["real", "virtual"] = "real"
    forward_ms: Annotated[float, Number, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    backward_ms: Annotated[float, Number, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    cores: Literal["auto"] | Annotated[float, Number, Field(gt=0, le=1)] = "auto"
    """Share of one core that a rank computes with on the fastest device kind, slower ones in
    proportion; auto is three quarters of cores / ranks, which leaves the rest to
    communication."""

    @model_validator(mode="after")
    def _effective(self) -> RehearsalOptions:
        times = {"forward_ms": self.forward_ms, "backward_ms": self.backward_ms}
        if self.devices == "virtual" and self.cores != "auto":
            raise ValueError("`cores` has no effect when devices are virtual")
        for name, value in times.items():
            if self.devices == "real" and value is not None:
                raise ValueError(f"`{name}` has no effect when devices are real")
            if self.devices == "virtual" and value is None:
                raise ValueError(f"`{name}` is needed when devices are virtual")
        return self
