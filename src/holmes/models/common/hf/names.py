"""Which tensor of a Hugging Face folder a parameter lies in, and how. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a parameter of the model stands in the folder.

    Attributes:
        name: of the folder's tensor, without the prefix that only some folders have.
        transposed: the folder keeps it as [inputs, outputs].
        start: its first row (of the parameter, not transposed) where several parameters are
            stacked in one tensor.
        stacked: rows of all that are stacked; 0: it is alone.
        longer: the folder may have more rows, which are left.
    """

    name: str
    transposed: bool = False
    start: int = 0
    stacked: int = 0
    longer: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the folder's tensor for a parameter of this shape."""
        rows = (self.stacked or shape[0], *shape[1:])
        return tuple(reversed(rows)) if self.transposed else rows

    def stored_box(self, box: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """A half-open interval of every dim of the parameter, as one of the folder's tensor."""
        (low, high), *rest = box
        moved = ((low + self.start, high + self.start), *rest)
        return tuple(reversed(moved)) if self.transposed else moved


@dataclass(frozen=True)
class FolderLayout:
    """How a family's parameters lie in a folder.

    Attributes:
        sources: by global name; the canonical name alone of a tied weight.
        prefix: before the names of all tensors but the head's, in folders of whole models.
        head: the folder's name of the head's weight, which never has the prefix.
        passed_over: endings of tensors that hold nothing to learn.
    """

    sources: Mapping[str, Source]
    prefix: str
    head: str = "lm_head.weight"
    passed_over: tuple[str, ...] = ()

    def stored_name(self, source: Source, *, prefixed: bool = True) -> str:
        """The full name of the folder's tensor."""
        return (
            source.name if source.name == self.head or not prefixed else self.prefix + source.name
        )
