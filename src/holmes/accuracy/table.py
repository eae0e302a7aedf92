"""Tables of measured training runs: CSV rows as a case (what was run) and what was measured.

The two are separate values, so that whoever predicts a case cannot see its
measurement. Columns are described in ``benchmarks/tables/README.md``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holmes.accuracy.implementations import Implementation, implementation_of
from holmes.accuracy.words import RECOMPUTE, SCHEDULE, SHARDING, key, precision_known
from holmes.errors import DataError
from holmes.plan.layout import Recompute, ScheduleName, Sharding

GIB = 2**30
NEEDED = (
    "model", "layers", "hidden", "heads", "seq", "site", "n_gpus", "global_batch",
)  # fmt: skip
NOTHING = ("-", "n/a", "na", "nan")
"""What stands in cells that state nothing, besides an empty one."""
DEFAULT_VOCABULARY = 51_200
"""GPT-2's table padded as Megatron-LM does; used where a row leaves the cell empty."""


HARDWARE_FLOPS = (
    "hardware flop", "hfu", "96bslh", "96 b s l h", "incl. recompute", "narayanan", "sc21",
    "2104.04473",
)  # fmt: skip
"""Marks of sources that count recomputation: they say so, or they are Narayanan et al. 2021."""


class UnusableRowError(Exception):
    """A row that cannot be predicted or scored; the text says why."""


@dataclass(frozen=True)
class Case:
    """One run as it was set up: model, hardware and layout, nothing measured.

    ``row`` is the line's number in the file, the header being 1. ``devices`` is
    the number of accelerators, ``recompute`` None where the row does not know.
    ``stage_layers`` counts layers per stage, embedding and head included.
    ``software``: what the row says of it, its source included. ``flash_attention``: the row says
    somewhere that its attention is fused. ``assumed`` says what stands in for empty cells.
    """

    row: int
    model: str
    layers: int
    hidden: int
    heads: int
    sequence: int
    parameters_b: float | None
    vocabulary: int
    site: str
    devices: int
    tp: int
    pp: int
    dp: int
    cp: int
    interleave: int
    micro: int
    global_batch: int
    recompute: Recompute | None
    sequence_parallel: bool = False
    sharding: Sharding = "none"
    precision: str = "mixed"
    compiled: bool = False
    async_tp: bool = False
    schedule: ScheduleName | None = None
    framework: str = ""
    software: str = ""
    flash_attention: bool = False
    stage_layers: tuple[int, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def microbatches(self) -> int:
        """Per step and replica."""
        return self.global_batch // (self.micro * self.dp)


@dataclass(frozen=True)
class Measured:
    """What a run took.

    ``hardware_flops`` tells that ``tflops`` counts recomputation. ``memory_bytes`` is the
    peak of a device, ``counted_bytes`` what a paper counts of it: states and activations.
    """

    seconds: float | None = None
    samples_per_second: float | None = None
    tflops: float | None = None
    hardware_flops: bool = False
    memory_bytes: float | None = None
    counted_bytes: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table: a case, or the reason why there is none; and its measurement."""

    row: int
    case: Case | None
    reason: str
    measured: Measured


def read_table(path: Path) -> tuple[Row, ...]:
    """All rows of a table in file order.

    Raises:
        DataError: the file is missing, is no CSV table of runs, has no rows, or a cell is no
            number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines, header = list(reader), reader.fieldnames or []
    except OSError as error:
        raise DataError(f"cannot read the table: {error.strerror}", where=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table is not CSV text: {error}", where=str(path)) from None
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise DataError(
            f"the table has no column {missing[0]!r}",
            where=f"{path}:1",
            why="needed are " + ", ".join(NEEDED),
            next_step="see benchmarks/tables/README.md for the columns",
        )
    if not lines:
        raise DataError(
            "the table has no rows",
            where=str(path),
            next_step="add a line for each measured run below the header",
        )
    return tuple(_row(_Cells(path, number, line)) for number, line in enumerate(lines, start=2))


class _Cells:
    """The cells of one line, each read with its place in the error."""

    def __init__(self, path: Path, row: int, line: Mapping[str | None, object]) -> None:
        if None in line or any(value is None for value in line.values()):
            raise DataError(
                "the line has another number of cells than the header", where=f"{path}:{row}"
            )
        self.path, self.row = path, row
        cells = {str(key): str(value).strip() for key, value in line.items()}
        self.line = {key: "" if text.lower() in NOTHING else text for key, text in cells.items()}

    def text(self, name: str) -> str:
        return self.line.get(name, "")

    def number(self, name: str) -> float | None:
        text = self.text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value <= 0.0:
            raise DataError(
                f"{name} is {text!r}, not a positive number", where=f"{self.path}:{self.row}"
            )
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.number(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise UnusableRowError(f"{name} is not stated")
        if value != int(value):
            raise DataError(
                f"{name} is {value}, not a whole number", where=f"{self.path}:{self.row}"
            )
        return int(value)

    def counts(self, name: str) -> tuple[int, ...]:
        words = self.text(name).replace(",", " ").replace("|", " ").split()
        if not all(word.isdigit() for word in words):
            where = f"{self.path}:{self.row}"
            raise DataError(f"{name} is {self.text(name)!r}, not whole numbers", where=where)
        return tuple(int(word) for word in words)

    def flag(self, name: str) -> bool:
        text = self.text(name).lower()
        if text in ("", "0", "false", "no"):
            return False
        if text in ("1", "true", "yes"):
            return True
        raise DataError(f"{name} is {text!r}, not 0 or 1", where=f"{self.path}:{self.row}")


def _row(cells: _Cells) -> Row:
    measured = _measured(cells)
    try:
        return Row(cells.row, _case(cells), "", measured)
    except UnusableRowError as reason:
        return Row(cells.row, None, str(reason), measured)


def _case(cells: _Cells) -> Case:
    if flag := cells.text("data_flag"):
        raise UnusableRowError(f"the table marks the row: {flag}")
    if not cells.text("site"):
        raise UnusableRowError("site is not stated")
    recompute, sharding = cells.text("recompute"), cells.text("sharding")
    if key(recompute) not in RECOMPUTE:
        raise UnusableRowError(f"recompute {recompute!r} is not known")
    if key(sharding) not in SHARDING:
        raise UnusableRowError(f"sharding {sharding!r} is not known")
    if (precision := cells.text("precision")) and not precision_known(precision):
        raise UnusableRowError(f"precision {precision!r} is not known")
    software = f"{cells.text('framework')} {cells.text('source')}"
    made = implementation_of(software)
    case = Case(
        row=cells.row,
        model=cells.text("model"),
        layers=cells.count("layers"),
        hidden=cells.count("hidden"),
        heads=cells.count("heads"),
        sequence=cells.count("seq"),
        parameters_b=cells.number("params"),
        vocabulary=cells.count("vocab", DEFAULT_VOCABULARY),
        site=cells.text("site"),
        **_degrees(cells),
        interleave=cells.count("interleave", 1),
        micro=cells.count("micro_batch", 1),
        global_batch=cells.count("global_batch"),
        recompute=RECOMPUTE[key(recompute)],
        sequence_parallel=cells.flag("seq_parallel"),
        sharding=SHARDING[key(sharding)],
        precision=cells.text("precision") or made.precision or "mixed",
        compiled=cells.flag("compile"),
        async_tp=cells.flag("async_tp"),
        schedule=SCHEDULE.get(key(cells.text("schedule"))),
        framework=cells.text("framework"),
        software=software,
        flash_attention=any("flash" in text.lower() for text in cells.line.values()),
        stage_layers=cells.counts("layers_per_stage"),
        assumed=_assumed(cells, made),
    )
    _check(case)
    return case


def _assumed(cells: _Cells, made: Implementation) -> tuple[str, ...]:
    found = []
    if not cells.text("micro_batch"):
        found.append("micro_batch not stated, taken as 1")
    if made.precision and not cells.text("precision"):
        found.append(f"precision not stated, taken as {made.precision}, its code's default")
    schedule = cells.text("schedule")
    if schedule and key(schedule) not in SCHEDULE:
        found.append(f"schedule {schedule!r} is not known, taken as the usual one")
    return tuple(found)


def _degrees(cells: _Cells) -> dict[str, int]:
    """Devices and degrees; one of the number of devices and dp follows from the others."""
    tp, pp, cp = (cells.count(name, 1) for name in ("tp", "pp", "cp"))
    if cells.text("dp") or not cells.text("n_gpus"):
        dp = cells.count("dp", 1)
        devices = cells.count("n_gpus", tp * pp * dp * cp)
    else:
        devices = cells.count("n_gpus")
        dp = max(1, devices // (tp * pp * cp))
    return {"devices": devices, "tp": tp, "pp": pp, "dp": dp, "cp": cp}


def _check(case: Case) -> None:
    ranks = case.tp * case.pp * case.dp * case.cp
    if ranks != case.devices:
        raise UnusableRowError(
            f"tp {case.tp} x pp {case.pp} x dp {case.dp} x cp {case.cp} is not {case.devices}"
        )
    if case.global_batch % (case.micro * case.dp):
        raise UnusableRowError(
            f"{case.global_batch} samples are not whole micro-batches of {case.micro} "
            f"on {case.dp} replicas"
        )
    if case.pp * case.interleave > case.layers:
        raise UnusableRowError(
            f"{case.layers} layers are fewer than {case.pp * case.interleave} stages"
        )


def _measured(cells: _Cells) -> Measured:
    states = cells.number("params_opt_gib_fig1")
    activations = cells.number("act_gib_fig1")
    counted = None if states is None or activations is None else (states + activations) * GIB
    memory = cells.number("max_mem_bytes")
    for name, unit in (("mem_gib", GIB), ("mem_gb", 10**9)):
        if memory is None and (stated := cells.number(name)) is not None:
            memory = stated * unit
    return Measured(
        seconds=cells.number("iter_time_s"),
        samples_per_second=cells.number("samples_per_s"),
        tflops=cells.number("tflops_per_gpu"),
        hardware_flops=_counts_recomputation(cells),
        memory_bytes=memory,
        counted_bytes=counted,
    )


def _counts_recomputation(cells: _Cells) -> bool:
    """Whether a row's TFLOP/s are hardware FLOPs: it says so, or its source counts that way, as
    Megatron-LM's log does where it recomputes (megatron/training.py, checkpoint factor)."""
    text = " ".join(cells.text(name) for name in ("source", "how_obtained", "confidence")).lower()
    if "model flop" in text or "mfu" in text:
        return False
    if any(mark in text for mark in HARDWARE_FLOPS):
        return True
    megatron = "megatron" in f"{text} {cells.text('framework').lower()}"
    return megatron and RECOMPUTE.get(key(cells.text("recompute"))) == "full"
