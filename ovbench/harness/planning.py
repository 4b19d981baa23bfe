"""What a run would do, step by step: operations, hours on a GPU, memory, disk. Nothing is run, nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, unknown
from ovbench.harness.steps import Step, StepCache

Precision = Literal["float32", "tf32", "bfloat16"]
MFUS = (0.40, 0.45, 0.50)  # shares of the peak that are shown where none is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU."""

    title: str
    peak: Mapping[Precision, float]  # dense operations a second; float32 is that of ordinary cores, without TF32
    memory_bytes: float


def _gpu(title: str, bfloat16: float, tf32: float, float32: float, memory_gb: float) -> Gpu:
    peak: dict[Precision, float] = {"bfloat16": bfloat16 * 1e12, "tf32": tf32 * 1e12, "float32": float32 * 1e12}
    return Gpu(title=title, peak=peak, memory_bytes=memory_gb * 1e9)


# Source: NVIDIA's data sheets (H100, H200, A100, L40S, HGX B200, Ada architecture); halved where they count sparsity.
GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "h100": _gpu("H100 SXM", 989, 494.5, 67, 80),
        "h100-pcie": _gpu("H100 PCIe", 756, 378, 51, 80),
        "h200": _gpu("H200 SXM", 989, 494.5, 67, 141),
        "b200": _gpu("B200 SXM", 2250, 1125, 75, 180),
        "a100": _gpu("A100 SXM", 312, 156, 19.5, 80),
        "a100-40gb": _gpu("A100 SXM 40 GB", 312, 156, 19.5, 40),
        "l40s": _gpu("L40S", 362, 183, 91.6, 48),
        "rtx4090": _gpu("RTX 4090", 165.2, 82.6, 82.6, 24),
    }
)


def find_gpu(name: str) -> Gpu:
    """Returns a GPU by name.

    Raises:
        ConfigError: There is none, with a suggestion.
    """
    return lookup(GPUS, name.lower(), kind="GPU", where="--gpu")


def check_mfu(value: float) -> float:
    """Returns the share of the peak.

    Raises:
        ConfigError: It is not in (0, 1].
    """
    if not (math.isfinite(value) and 0.0 < value <= 1.0):
        raise ConfigError(
            f"it must be a share above 0 and up to 1, got {value:g}", where="--mfu", fix="for instance --mfu 0.45"
        )
    return value


def check_precision(name: str) -> Precision:
    """Returns a precision by name.

    Raises:
        ConfigError: There is none, with a suggestion.
    """
    for known in get_args(Precision):
        if name == known:
            return known
    raise unknown("precision", name, get_args(Precision), where="--precision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A part of a step."""

    what: str
    flops: int
    precision: Precision
    fixed: bool = False  # the precision is not the protocol's to choose: a reported score is float32 throughout

    def seconds(self, gpu: Gpu, mfu: float) -> float:
        """Returns the time on one GPU."""
        return self.flops / (gpu.peak[self.precision] * mfu)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One step of a run."""

    name: str  # of the cached step: `decoder`, `dit`, …
    what: str  # for people
    work: tuple[Work, ...] = ()  # empty: not counted
    repeats: int = 1  # how often it is done, each time with other inputs, e.g. once per seed
    cached: bool | None = None  # None: not looked up
    made_in_s: float | None = None  # what it cost when it was last made, on the machine of that time; None: not known
    missing: str = ""  # what could not be counted, and why

    @property
    def flops(self) -> int | None:
        """Operations of all repeats; None: not counted."""
        return self.repeats * sum(part.flops for part in self.work) if self.work else None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions by their share of the operations, the largest first."""
        shares: dict[Precision, int] = {}
        for part in self.work:
            shares[part.precision] = shares.get(part.precision, 0) + part.flops
        return tuple(sorted(shares, key=lambda name: -shares[name]))

    def gpu_hours(self, gpu: Gpu, mfu: float) -> float | None:
        """Returns the hours of one GPU for all repeats; None: not counted."""
        if not self.work:
            return None
        return self.repeats * sum(part.seconds(gpu, mfu) for part in self.work) / 3600

    def in_precision(self, precision: Precision) -> PlannedStep:
        """Returns the step in another precision, but for work whose precision is fixed."""
        work = tuple(part if part.fixed else replace(part, precision=precision) for part in self.work)
        return replace(self, work=work)

    def looked_up(self, cache: StepCache, steps: Sequence[Step]) -> PlannedStep:
        """Returns the step with what the cache knows of it: cached where all its parts are.

        Args:
            cache: Where finished steps are. Large entries are read whole, since they are verified.
            steps: With their keys, which a pipeline makes; one or more, e.g. one per seed.
        """
        if not steps or any(cache.find(step) is None for step in steps):
            return replace(self, cached=False)
        times = [cache.describe(step).made_in_s for step in steps]
        known = [each for each in times if each is not None]
        return replace(self, cached=True, made_in_s=sum(known) if len(known) == len(times) else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """A number of bytes and what they are."""

    what: str
    num_bytes: int
    optional: bool = False  # only where it is asked for; not in the total


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the runs of one encoder would do."""

    encoder: str  # spec in its longest form
    steps: tuple[PlannedStep, ...]
    suite: str = ""
    guidance: str = ""  # of the samples, as it was asked for; empty: the protocol's
    params: Mapping[str, int] = field(default_factory=dict)  # network → parameters
    forward_flops: Mapping[str, int] = field(default_factory=dict)  # network → operations of one image
    sample_flops: int | None = None  # of one sample with its decoding; None: nothing is sampled, or not known
    sample_precision: Precision = "float32"
    memory: tuple[Amount, ...] = ()  # of one GPU, without activations; the largest one counts
    disk: tuple[Amount, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Operations of all steps that are counted and not cached."""
        return sum(step.flops or 0 for step in self.left)

    @property
    def left(self) -> tuple[PlannedStep, ...]:
        """Steps that are not known to be cached."""
        return tuple(step for step in self.steps if not step.cached)

    @property
    def disk_bytes(self) -> int:
        """Bytes of everything that is written without being asked for."""
        return sum(amount.num_bytes for amount in self.disk if not amount.optional)

    @property
    def memory_bytes(self) -> int:
        """The largest memory of a step, without activations."""
        return max((amount.num_bytes for amount in self.memory), default=0)

    def gpu_hours(self, gpu: Gpu, mfu: float, precision: Precision | None = None) -> float:
        """Returns the hours of one GPU for what is left to do.

        Args:
            gpu: Which.
            mfu: Share of its peak, in (0, 1].
            precision: In place of the protocol's.
        """
        steps = self.left if precision is None else tuple(step.in_precision(precision) for step in self.left)
        return sum(step.gpu_hours(gpu, mfu) or 0.0 for step in steps)

    def samples_per_s(self, gpu: Gpu, mfu: float, precision: Precision | None = None) -> float | None:
        """Returns samples a second of one GPU, decoding included and scoring not; None where that is not known."""
        if not self.sample_flops:
            return None
        return gpu.peak[precision or self.sample_precision] * mfu / self.sample_flops


# Steps whose output the suites of an encoder share, whatever the samples are guided by.
_SHARED = ("latents", "latent_stats", "decoder", "dit")


def sum_of(forecasts: Sequence[Forecast]) -> Forecast:
    """Returns all that an encoder's forecasts do together: what they share is done, and lies on the disk, once.

    Args:
        forecasts: Of one encoder: of several suites, or of several guidances; one or more.
    """
    steps: dict[object, PlannedStep] = {}
    disk: dict[object, Amount] = {}
    for number, forecast in enumerate(forecasts):
        for step in forecast.steps:
            own: object = None if step.name in _SHARED else forecast.suite if step.name == "features" else number
            steps.setdefault((step.name, own), step)
        for amount in forecast.disk:
            own = number if amount.what.startswith("features") else None
            disk.setdefault((amount.what, own), amount)
    first = forecasts[0]
    return Forecast(
        encoder=first.encoder,
        steps=tuple(steps.values()),
        memory=tuple(dict.fromkeys(amount for forecast in forecasts for amount in forecast.memory)),
        disk=tuple(disk.values()),
        notes=tuple(dict.fromkeys(note for forecast in forecasts for note in forecast.notes)),
    )
