"""The passes that make pictures, as cached steps of a generation run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ovbench.harness.generation.picture_parts import Content, Made, make_parts, read_parts, trim_parts
from ovbench.harness.generation.slots import Group
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.step_runner import Counted, StepRunner
from ovbench.harness.steps import Step
from ovbench.harness.training import Progress

__all__ = ["Counted", "PictureRunner"]
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
        trimmed_from: Callable[[], Path] | None = None,
    ) -> Content:
        """Returns what the passes of a step left, making those that are missing; see `make_parts`.

        With `trimmed_from` they are cut out of the entry at its path, which keeps more pictures.
        """
        name = f"{_PASSES}{group_size}"

        def cut(out: Path, work: Path, source: Path) -> None:
            (passes,) = source.glob(f"{_PASSES}*")
            size = int(passes.name.removeprefix(_PASSES))
            trim_parts(passes, work / passes.name, num_items, size, num_kept=num_kept, processes=self.processes)
            self.take_over(work / passes.name, out / passes.name)

        def build(out: Path, work: Path, progress: Progress) -> None:
            if trimmed_from is not None:
                cut(out, work, trimmed_from())
                return
            began = time.monotonic()
            made = make_parts(
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
            self.speed(label, sum(self.processes.gather(made)), began, "images/s")
            self.take_over(work / name, out / name)

        # Contract: an entry is read by the size of its own passes, since another device would make others.
        (path,) = self.obtain(step, label, parents, build).path.glob(f"{_PASSES}*")
        size = int(path.name.removeprefix(_PASSES))
        scratch = self.cache.root / "scratch"
        return read_parts(path, num_items, size, extractor.info, layers=layers, scratch=scratch, num_shown=num_shown)
