"""The demo as a record: both placements in one session, with bytes and predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import record

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run the demo and keep its summary."""
    command = [sys.executable, "-m", "holmes", "rehearse", "examples/demo.yaml", "--json"]
    command += ["--placement", "holmes", "--placement", "megatron", "--name", "demo"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    summary = json.loads(run.stdout)
    runs = {name: summary[name] for name in ("holmes", "megatron")}
    for each in runs.values():
        each["run"] = str(Path(each["run"]).relative_to(ROOT))
    record.write("demo", {"runs": runs, "speedup": summary["speedup"]})


if __name__ == "__main__":
    main()
