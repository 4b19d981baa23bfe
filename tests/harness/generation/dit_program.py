"""Trains the small diffusion transformer as a program of its own: `torchrun … dit_program.py FOLDER JOB…`.

A job is a subfolder whose name is words with commas: `passes` (micro-batches of 3), `bfloat16`, `fsdp2`, `slow` (a step
takes 0.2 s, so that it can be killed), `stopped` (ends without a word after step 6), `nan` (the latents of step 6 are
NaN on process 1); any other word means nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ovbench._base.errors import OvbenchError
from ovbench.harness.parallel import Processes, open_processes
from tests.harness.generation.dit_training import latents, recipe, train


class Stopped(Exception):
    pass


def run(folder: Path, words: Sequence[str], processes: Processes) -> None:
    calls = 0

    def progress(done: int, total: int, **fields: float) -> None:
        if "slow" in words:
            time.sleep(0.2)
        if "stopped" in words and done == 6:
            raise Stopped

    def broken(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        nonlocal calls
        calls += 1
        return latents(indices, mirrored) * (float("nan") if calls == 6 and processes.rank == 1 else 1.0)

    changes: dict[str, Any] = {"micro_batch": 3} if "passes" in words else {}
    if "bfloat16" in words:
        changes["precision"] = "bfloat16"
    try:
        train(
            folder,
            recipe(**changes),
            processes=processes,
            sharding="fsdp2" if "fsdp2" in words else "none",
            latents=broken if "nan" in words else latents,
            progress=progress,
        )
    except OvbenchError as error:
        (folder / f"error{processes.rank}.txt").write_text(str(error), encoding="utf-8")
    except Stopped:
        processes.barrier()


if __name__ == "__main__":
    everyone = open_processes("cpu")
    for job in sys.argv[2:]:
        run(Path(sys.argv[1]) / job, job.split(","), everyone)
