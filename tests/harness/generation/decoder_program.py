"""Trains the small decoder with its discriminator as a program of its own: `torchrun … decoder_program.py FOLDER WORD`.

`plain`, `passes` (micro-batches of 3), `nan` (the perceptual distance of step 5 on process 1 is NaN), `slow` (a step
takes 0.2 s, so that it can be killed).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ovbench._base.errors import OvbenchError
from ovbench.harness.parallel import Processes, open_processes
from tests.harness.generation.decoder_training import GAN, SMOOTH, Perceptual, recipe, smoothly, train


class Broken(Perceptual):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.rank, self.calls = processes.rank, 0

    def forward(self, reconstruction_pm1: Tensor, images_pm1: Tensor) -> Tensor:
        self.calls += 1
        broken = self.calls == 5 and self.rank == 1
        return super().forward(reconstruction_pm1, images_pm1) * (float("nan") if broken else 1.0)


def main(folder: Path, word: str) -> None:
    processes = open_processes("cpu")

    def progress(done: int, total: int, **fields: float) -> None:
        if word == "slow":
            time.sleep(0.2)

    lpips = Broken(processes) if word == "nan" else Perceptual()
    if word == "slow":
        train(folder, recipe(GAN), lpips=lpips, progress=progress)
        return
    with smoothly() as arguments:
        chosen = recipe(SMOOTH, micro_batch=3 if word == "passes" else None)
        try:
            train(folder, chosen, lpips=lpips, processes=processes, **arguments)
        except OvbenchError as error:
            (folder / f"error{processes.rank}.txt").write_text(str(error), encoding="utf-8")
        save_file(arguments["discriminator"].head_state(), folder / f"heads{processes.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
