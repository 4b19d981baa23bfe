"""Frozen visual tokens of a run, one cached step per set of pictures and aspect policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovbench._base.files import read_json, write_json
from ovbench.encoders.base import Encoder, PreprocessSpec, Tap
from ovbench.harness.feature_cache import FeatureCache
from ovbench.harness.features import Features
from ovbench.harness.step_runner import StepRunner
from ovbench.harness.steps import Step

IMAGES = "images.json"  # of a features step: the digests of its pictures, by which the feature cache finds their tokens


class FeatureSteps:
    """Opens the tokens of sets of pictures; those that the feature cache lacks are encoded when they are asked for.

    Args:
        encoder: Frozen.
        tap: What the language model reads.
        dtype: Of storage.
        runner: Obtains the steps.
        cache: Of features.
        batch_asked: Pictures that training asks for at a time.
        workers: Threads that load and prepare pictures.
    """

    def __init__(
        self,
        encoder: Encoder,
        tap: Tap,
        *,
        dtype: str,
        runner: StepRunner,
        cache: FeatureCache,
        batch_asked: int,
        workers: int = 1,
    ) -> None:
        self._encoder, self._tap, self._dtype = encoder, tap, dtype
        self._runner, self._cache, self._batch_asked, self._workers = runner, cache, batch_asked, workers
        self._open: dict[str, Features] = {}
        self._labels: dict[str, str] = {}
        self.num_encoded, self.encode_s = 0, 0.0  # of what was stored by this run

    def step(self, images_digest: str, spec: PreprocessSpec) -> Step:
        """Returns the step of a set of pictures, prepared as `spec` says."""
        return Step(
            name="features",
            version=2,
            inputs={
                "encoder": self._encoder.fingerprint(self._tap),
                "preprocess": asdict(spec),
                "images": images_digest,
                "dtype": self._dtype,
            },
        )

    def open(
        self,
        step: Step,
        spec: PreprocessSpec,
        label: str,
        image_ids: Sequence[str],
        image: Callable[[str], Any],
        num_reads: float,
    ) -> Features:
        """Returns the tokens of a set of images.

        The step's own file only names the pictures: their tokens are shared with every other set that holds them.

        Args:
            step: From `step`.
            spec: How pictures are prepared.
            label: Name in progress lines.
            image_ids: Distinct names.
            image: Name → uint8 [H, W, 3].
            num_reads: How often each will be needed.
        """
        if step.key in self._open:
            return self._open[step.key]
        processes = self._runner.processes

        def opened(digests: Mapping[str, str]) -> Features:
            source = Features(
                self._encoder,
                image_ids,
                image,
                self._cache,
                tap=self._tap,
                spec=spec,
                dtype=self._dtype,
                num_reads=num_reads,
                batch_asked=self._batch_asked,
                digests=digests,
                workers=self._workers,
                start=processes.rank / processes.world_size,  # each begins elsewhere, and finds what others made
            )
            self._open[step.key], self._labels[step.key] = source, label
            return source

        def build(out: Path, work: Path, progress: Any) -> None:
            del work
            source = opened({})
            self._fill(source, progress)
            write_json(out / IMAGES, {"digests": source.digests, "namespace": source.namespace})

        result = self._runner.obtain(step, label, (), build)
        if (source := self._open.get(step.key)) is None:
            source = opened(read_json(result.path / IMAGES)["digests"])
            if source.bypassed is None and source.missing():  # evicted since, or never stored
                began = time.monotonic()
                self._fill(source, self._runner.reporter.step(label))
                self._runner.reporter.ended(label, cached=False, seconds=time.monotonic() - began)
        return source

    def _fill(self, source: Features, progress: Any) -> None:
        before, began = source.num_encoded, time.monotonic()
        source.fill(progress)
        if source.num_encoded > before:
            self.num_encoded += source.num_encoded - before
            self.encode_s += time.monotonic() - began

    @property
    def opened(self) -> tuple[Features, ...]:
        """The sets that were opened so far."""
        return tuple(self._open.values())

    def bypassed(self) -> dict[str, str]:
        """Returns which features were not cached, by the label of their step, and why."""
        opened = self._open.items()
        return {self._labels[key]: source.bypassed for key, source in opened if source.bypassed is not None}

    def close(self) -> None:
        """Lets the features be evicted."""
        for source in self._open.values():
            source.close()
