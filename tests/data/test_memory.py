"""Texts far larger than the memory that reading and tokenising them may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCUMENTS, LETTERS = 12_000, 2_000
BUDGET_MB = 12
"""Below half of the text; the kernel refuses more to the process that reads it."""
PROGRAM = """
import re, resource, sys
from pathlib import Path
from holmes.data.prepare import _write_both
from holmes.data.sources import read_corpus
import pyarrow

class Letters:
    end_of_text, vocabulary = 256, 257
    def encode(self, text):
        return list(text.encode())

pyarrow.set_cpu_count(1), pyarrow.set_io_thread_count(1)
corpus = read_corpus(sys.argv[1], "text", 1 << 20)
next(iter(corpus.documents))  # threads and pools are there
now = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (now + BUDGET, now + BUDGET))
folder = Path(sys.argv[2])
train, held = _write_both(corpus, Letters(), 0.1, (folder / "a.bin", folder / "b.bin"))
print(len(train) + len(held))
"""


def rows() -> Any:
    return (f"{number:06d} " + "word " * (LETTERS // 5) for number in range(DOCUMENTS))


def write(path: Path) -> None:
    """The same documents in the format that the name asks for."""
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps({"text": row}) + "\n" for row in rows())
        return
    import pyarrow
    from pyarrow import ipc, parquet

    table = pyarrow.table({"text": list(rows())})
    if path.suffix == ".parquet":  # one row group; nothing that would make it small
        parquet.write_table(table, path, use_dictionary=False, compression="none")
        return
    with ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's bound on data is Linux's")
@pytest.mark.parametrize("kind", ["jsonl", "arrow", "parquet"])
def test_a_text_larger_than_the_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"text.{kind}"
    write(path)
    assert path.stat().st_size > 1.9 * BUDGET_MB * 2**20
    program = PROGRAM.replace("BUDGET", str(BUDGET_MB << 20))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        env={
            **os.environ,
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        },  # pools of their own reserve ahead
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert int(done.stdout) == DOCUMENTS * (7 + LETTERS + 1)
