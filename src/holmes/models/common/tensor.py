"""How a model splits over the tensor axis, as a declaration beside it. No torch.

After Shoeybi et al. 2019 (columns, rows, vocabulary) and Korthikanti et al. 2022, section
4.2.2 (between the split parts every tensor rank holds its share of the tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

from holmes.models.common.names import COLUMN, ROW


@dataclass(frozen=True)
class TensorSplit:
    """Sub-modules by their names in a block; what is not named is held whole.

    Attributes:
        column: linear layers whose outputs are split.
        row: linear layers whose inputs are split; the partial outputs are summed.
        key_value: those of ``column`` whose outputs are the heads of keys or values. With
            fewer such heads than tensor ranks, neighbouring ranks hold the same head.
        table: the token table, split by tokens of the vocabulary.
        head: the linear layer to the logits, split likewise.
        whole_tokens: sub-modules that read all tokens, so their input is gathered.
        by_token: sub-modules whose output is one row per position; a rank keeps its own.
    """

    column: tuple[str, ...]
    row: tuple[str, ...]
    key_value: tuple[str, ...]
    table: str
    head: str
    whole_tokens: tuple[str, ...]
    by_token: tuple[str, ...] = ()

    def dim(self, name: str) -> int | None:
        """The dim that splits, of a parameter named ``<sub-module>.weight`` or ``.bias``."""
        module, _, kind = name.rpartition(".")
        if module in (*self.column, self.table, self.head):
            return 0
        return 1 if module in self.row and kind == "weight" else None


DECODER_SPLIT = TensorSplit(
    column=COLUMN,
    row=ROW,
    key_value=("attention.key", "attention.value"),
    table="token",
    head="projection",
    whole_tokens=("attention", "mlp", "projection"),
    by_token=("position",),
)
"""Of every decoder whose sub-modules are named as in ``names.py``."""
