"""A run that kills itself with SIGKILL at a named moment: `llava_killed.py PROTOCOL DATA RUNS LIMIT STEP DONE`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.harness.events import Event
from tests.end_to_end.llava_parts import LLM, run_here

if __name__ == "__main__":
    protocol, data, runs, limit, step, done = sys.argv[1:]
    allow_torchvision()
    torch.set_num_threads(1)

    def kill(event: Event) -> None:
        if event.step == step and event.done >= int(done):
            os.kill(os.getpid(), signal.SIGKILL)

    run_here(
        Path(protocol),
        Path(runs),
        data=Path(data),
        language_model=LLM,
        limit=int(limit),
        reference=step.startswith("answers"),  # asks one by one, so that some answers are there and others are not
        listener=kill,
    )
