"""A small training run that saves in the background after every step, and dies where told.

As a program: fork one run per phase of a save; each kills itself at that phase of its
fourth save. Forked, because importing torch takes longer than the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from holmes.runtime.checkpoint.agreement import Members
from holmes.runtime.checkpoint.check import latest_good
from holmes.runtime.checkpoint.folders import Keep
from holmes.runtime.checkpoint.random_state import restore_random, seed_random
from holmes.runtime.checkpoint.read import Reader
from holmes.runtime.checkpoint.saver import Saver, SaverOptions
from holmes.runtime.checkpoint.write import PHASES, no_phase
from holmes.runtime.groups import Groups
from holmes.train.saving import state_of
from tests.runtime.cases import build
from tests.runtime.plans import Spec
from tests.runtime.reference import batch_of

SPEC = Spec(layers=2, microbatches=2)
STEPS = 6
DEADLY_SAVE = 4


def train(run: Path, on_phase: Callable[[str], None] = no_phase) -> dict[str, torch.Tensor]:
    """Train from the newest good checkpoint, or from the start; the final parameters."""
    torch.set_num_threads(1)  # sums of another process are bit-equal only with as many threads
    groups = Groups(0, 1, torch.device("cpu"))
    engine = build(SPEC, groups)
    seed_random(0, 0)
    first = 0
    newest = latest_good(run, lambda line: None)
    if newest is not None:
        reader = Reader(newest)
        engine.optimizer.load_named(reader.read)
        restore_random(reader, 0, 1)
        first = reader.manifest.step
    options = SaverOptions(Keep(2), on_phase=on_phase)
    with Saver(run, Members(), groups.maximum, options) as saver:
        for step in range(first, STEPS):
            noise = torch.rand(()) * 1e-3  # what an operation with dropout would draw
            engine.optimizer.set_learning_rate(1e-2 + float(noise))
            engine.interpreter.step(step, lambda m, s=step: batch_of(SPEC, s, 0, m))
            saver.collect()
            engine.interpreter.gather_parameters()
            saver.begin(step + 1, state_of(engine.optimizer, 0), {})
    engine.interpreter.close()
    return {slot.name: slot.parameter.detach().clone() for slot in engine.slots}


def deadly(phase: str) -> Callable[[str], None]:
    """Ends this process, as the kernel would, when the fourth save reaches a phase."""
    seen = 0

    def on_phase(reached: str) -> None:
        nonlocal seen
        seen += reached == phase
        if seen == DEADLY_SAVE:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_phase


def main(root: Path) -> None:
    """Run every phase in a child of its own; print how each ended."""
    ends = {}
    for phase in PHASES:
        child = os.fork()
        if child == 0:
            try:
                train(root / phase, deadly(phase))
            finally:
                os._exit(3)
        ends[phase] = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
