"""Documents of .parquet and .arrow files: the rows of one column, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holmes.data.documents import Document, checked, too_long
from holmes.errors import DataError, HolmesError, suggestion

ROWS = 256
BATCH_BYTES = 4 * 2**20
BUFFER_BYTES = 2**20
"""Of a parquet file: rows and bytes of them (on average) in memory at a time, and of the file
itself, however large its row groups are; an arrow file says itself."""


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

        # with pre_buffer the column of a whole row group is fetched before its first row is there
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            _check_column(path, file.schema_arrow, field)
            rows = _rows_at_a_time(file.metadata, field)
            for batch in file.iter_batches(rows, columns=[field], use_threads=False):
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


def _rows_at_a_time(metadata: Any, field: str) -> int:
    """Of long texts fewer: as many as the sizes that the file states leave room for.

    The file counts a text that repeats in a column once; such a batch can be larger.
    """
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    sizes = [
        column.total_uncompressed_size
        for group in groups
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema == field
    ]
    each: int = sum(sizes) // max(metadata.num_rows, 1)
    return max(1, min(ROWS, BATCH_BYTES // max(each, 1)))


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
