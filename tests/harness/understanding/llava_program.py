"""Trains the small LLaVA as a program of its own: `torchrun … llava_program.py LM DATA FOLDER JOB…`.

A job is a subfolder whose name is words with commas: `one` or `two` (the stage), `fsdp2`, `global` (global_tokens),
`passes` (3 conversations each), `checkpointing` (of gradients), `slow` (a step takes 0.2 s, so that it can be killed),
`stopped` (ends without a word after step 5); any other word means nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ovbench.harness.parallel import Processes, open_processes
from ovbench.harness.understanding.config import LlavaConfig
from tests.harness.understanding.llava_training import config, open_tree, train


class Stopped(Exception):
    pass


def recipe_of(language_model: str, words: Sequence[str]) -> LlavaConfig:
    both: dict[str, Any] = {"loss_normalisation": "global_tokens"} if "global" in words else {}
    return config(language_model, both=both, gradient_checkpointing="checkpointing" in words)


def run(language_model: str, data: Path, folder: Path, words: Sequence[str], processes: Processes) -> None:
    def progress(done: int, total: int, **fields: float) -> None:
        if "slow" in words:
            time.sleep(0.2)
        if "stopped" in words and done == 5:
            raise Stopped

    try:
        train(
            folder,
            open_tree(data),
            recipe_of(language_model, words),
            stage=1 if "one" in words else 2,
            processes=processes,
            sharding="fsdp2" if "fsdp2" in words else "none",
            pass_size=3 if "passes" in words else None,
            progress=progress,
        )
    except Stopped:
        processes.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    everyone = open_processes("cpu")
    for job in sys.argv[4:]:
        run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) / job, job.split(","), everyone)
