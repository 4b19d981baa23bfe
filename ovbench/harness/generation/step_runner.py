"""The passes that make pictures, as cached steps of a generation run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ovbench.harness.generation.picture_parts import Content, Made, make_parts, read_parts
from ovbench.harness.generation.slots import Group
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.step_runner import StepRunner
from ovbench.harness.steps import Step
from ovbench.harness.training import Progress

_PASSES = "passes-"  # and the slots of a pass


class PictureRunner(StepRunner):
    """Obtains steps for all processes of a run that makes pictures."""

    def passes(
        self,
        step: Step,
        label: str,
        parents: Sequence[Callable[[], object]],
        make: Callable[[Group], Made],
        *,
        num_items: int,
        group_size: int,
        num_kept: int,
        num_shown: int,
        extractor: Extractor,
        layers: Sequence[str],
    ) -> Content:
        """Returns what the passes of a step left, making those that are missing; see `make_parts`."""
        name = f"{_PASSES}{group_size}"

        def build(out: Path, work: Path, progress: Progress) -> None:
            began = time.monotonic()
            make_parts(
                work / name,
                num_items,
                group_size,
                make,
                extractor,
                layers=layers,
                num_kept=num_kept,
                processes=self.processes,
                progress=progress,
            )
            self.speed(label, num_items, began, "images/s")
            self.take_over(work / name, out / name)

        # Contract: an entry is read by the size of its own passes, since another device would make others.
        (path,) = self.obtain(step, label, parents, build).path.glob(f"{_PASSES}*")
        size = int(path.name.removeprefix(_PASSES))
        scratch = self.cache.root / "scratch"
        return read_parts(path, num_items, size, extractor.info, layers=layers, scratch=scratch, num_shown=num_shown)
