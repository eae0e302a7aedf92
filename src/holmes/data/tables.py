"""Documents of .parquet and .arrow files: the rows of one column, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holmes.data.documents import Document, checked, too_long
from holmes.errors import DataError, HolmesError, suggestion

ROWS = 256
"""Rows in memory at a time, of a parquet file; an arrow file says itself."""


def read_rows(path: Path, name: str, field: str, limit: int) -> Iterator[Document]:
    """The documents of a table's column.

    Raises:
        DataError: a damaged file, no such column, or a row without text (with its number).
    """
    number = 0
    with _as_data_errors(path):
        for column in _columns(path, field):
            for text in column.to_pylist():
                where = f"{path}, row {number}"
                found = checked(text, where, f"column {field!r} is empty here")
                if len(found.encode()) > limit:
                    raise too_long(where, limit)
                yield Document(f"{name}:{number}", found)
                number += 1


def _columns(path: Path, field: str) -> Iterator[Any]:
    """The column, in batches."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            for batch in file.iter_batches(ROWS, columns=[field]):
                yield batch.column(field)
        return
    from pyarrow import ArrowInvalid, ipc, memory_map

    with memory_map(str(path)) as mapped:
        try:
            reader = ipc.open_stream(mapped)
        except ArrowInvalid:  # the other of the two formats that go by this name
            mapped.seek(0)
            reader = ipc.open_file(mapped)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        _check_column(path, reader.schema, field)
        for batch in batches:
            yield batch.column(field)


def _check_column(path: Path, schema: Any, field: str) -> None:
    from pyarrow import types

    if field not in schema.names:
        near = suggestion(field, schema.names)
        raise DataError(
            f"a table has no column {field!r}",
            where=str(path),
            why="its columns: " + ", ".join(schema.names)[:300],
            next_step=f"set data.field={near or schema.names[0]}" if schema.names else None,
        )
    kind = schema.field(field).type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise DataError(
            f"column {field!r} of a table holds no text",
            where=str(path),
            why=f"it is of type {kind}",
            next_step="set data.field to a column of strings",
        )


@contextmanager
def _as_data_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except HolmesError:
        raise
    except ModuleNotFoundError:
        raise DataError(
            "tables are read with pyarrow, which is not installed",
            where=str(path),
            next_step="pip install 'holmes[hf]'",
        ) from None
    except (OSError, ValueError) as error:  # what pyarrow raises derives from them
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError("a table cannot be read", where=str(path), why=why) from None
