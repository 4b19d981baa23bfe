"""Checks of an encoder adapter against the contract, for `ovbench check` and for a third party's own tests.

A check passes, fails, or is skipped with the reason why its promise cannot be looked at. Imports torch when used.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.encoders.base import ENCODER_MEMBERS, Encoder
from ovbench.encoders.registry import EncoderSpec, load_encoder, parse_encoder

if TYPE_CHECKING:
    from ovbench.encoders.modeling.contract.subject import Subject

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    outcome: Outcome
    detail: str  # the numbers seen, the likely fault, or why the check was skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """All checks of one encoder."""

    encoder: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; a skipped one does not count."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    def __getitem__(self, name: str) -> CheckResult:
        return next(result for result in self.results if result.name == name)

    def __str__(self) -> str:
        width = max(len(result.name) for result in self.results)
        lines = [f"{result.name:<{width}}  {result.outcome:<7}  {result.detail}" for result in self.results]
        return "\n".join([f"encoder {self.encoder}: {len(self.failures)} of {len(lines)} checks failed", *lines])

    def raise_if_failed(self) -> None:
        """Ends a test with the whole report as its text.

        Raises:
            AssertionError: A check failed.
        """
        if not self.passed:
            raise AssertionError(str(self))


def rows_of(report: CheckReport) -> list[dict[str, str]]:
    """Returns the report as rows for a table: check, outcome, detail."""
    return [{"check": result.name, "outcome": result.outcome, "detail": result.detail} for result in report.results]


def check_encoder(
    encoder: str | EncoderSpec | Encoder | Callable[[], Encoder],
    *,
    seed: int = 0,
    batch: int = 4,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> CheckReport:
    """Compares an encoder with every promise of the adapter contract (`ovbench.encoders.base.Encoder`).

    Args:
        encoder: A spec string such as `clip/mini`, an encoder, or a function without arguments that builds one. A spec
            string or a function is built twice, to compare fingerprints.
        seed: Of the pictures and of the places that are looked at.
        batch: Pictures per call, at least 2.
        device: Where an encoder that is named by a spec string runs.
        dtype: Its type.

    Raises:
        ConfigError: The encoder is not known, or the settings do not fit.
    """
    if batch < 2:
        raise ConfigError(f"a check needs at least 2 pictures, got {batch}", where="batch")
    named = isinstance(encoder, str | EncoderSpec)
    if not named and (device != "cpu" or dtype != "float32"):
        raise ConfigError(
            "device and dtype are those of an encoder that a spec string names",
            where="check_encoder",
            fix="build the encoder on the device and in the type to check",
        )
    rebuild: Callable[[], Encoder] | None = None
    with_random_weights: Callable[[int], Encoder] | None = None
    reason = "weights=random:SEED is an option of a spec string, and a built encoder or a function was given"
    if isinstance(encoder, str | EncoderSpec):
        spec = parse_encoder(encoder) if isinstance(encoder, str) else encoder

        def load(wanted: EncoderSpec = spec) -> Encoder:
            return load_encoder(wanted, device=device, dtype=dtype)

        rebuild = load
        if "weights" not in spec.family.options and spec.family.provider != "ovbench":
            reason = f"the encoder '{spec.family.key}' has no option 'weights'"
        else:

            def load_random(random_seed: int) -> Encoder:
                return load(replace(spec, options={**_without_seed(spec), "weights": f"random:{random_seed}"}))

            with_random_weights = load_random
    elif _is_factory(encoder):
        rebuild = encoder  # type: ignore[assignment]
    built = rebuild() if rebuild is not None else encoder
    missing = [name for name in ENCODER_MEMBERS if not hasattr(type(built), name) and not hasattr(built, name)]
    if missing:
        detail = f"{type(built).__name__} has no {', '.join(missing)}: it does not follow the Encoder protocol"
        return CheckReport(
            encoder=type(built).__name__, results=(CheckResult(name="protocol", outcome="failed", detail=detail),)
        )
    return _run_all(built, seed, batch, rebuild, with_random_weights, reason)  # type: ignore[arg-type]


def _without_seed(spec: EncoderSpec) -> dict[str, str]:
    """Returns the options but for the seed of the control `random`, in whose place another one is given."""
    return {name: value for name, value in spec.options.items() if name != "seed"}


def _is_factory(value: object) -> bool:
    """An encoder may be callable too, as every torch module is; a factory has none of the contract's members."""
    return callable(value) and (isinstance(value, type) or not any(hasattr(value, name) for name in ENCODER_MEMBERS))


def _run_all(
    encoder: Encoder,
    seed: int,
    batch: int,
    rebuild: Callable[[], Encoder] | None,
    with_random_weights: Callable[[int], Encoder] | None,
    no_random_weights: str,
) -> CheckReport:
    import torch

    from ovbench.encoders.modeling.contract.checks import CHECKS
    from ovbench.encoders.modeling.contract.subject import Subject, digest_of, make_pictures, modules_of

    protocol = CheckResult(name="protocol", outcome="passed", detail=f"{len(ENCODER_MEMBERS)} members are there")
    # Contract: the caller's random state and autograd mode are left as they were, whatever a check or adapter does.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=devices):
        modules = modules_of(encoder)
        subject = Subject(
            encoder=encoder,
            pictures=make_pictures(batch, encoder.info.input.size, seed),
            seed=seed,
            modules=modules,
            digest=digest_of(modules),
            rebuild=rebuild,
            with_random_weights=with_random_weights,
            no_random_weights=no_random_weights,
        )
        results = [_run(name, check, subject) for name, check in CHECKS.items()]
    return CheckReport(encoder=encoder.info.name, results=(protocol, *results))


def _run(name: str, check: Callable[[Subject], str], subject: Subject) -> CheckResult:
    from ovbench.encoders.modeling.contract.subject import Failure, Skip

    try:
        return CheckResult(name=name, outcome="passed", detail=check(subject))
    except Skip as reason:
        return CheckResult(name=name, outcome="skipped", detail=str(reason))
    except Failure as fault:
        return CheckResult(name=name, outcome="failed", detail=str(fault))
    except OvbenchError as error:
        return CheckResult(name=name, outcome="failed", detail=f"a correct call was refused: {error.what}")
    except Exception as error:  # an adapter may raise anything; the report goes on and says where
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        return CheckResult(name=name, outcome="failed", detail=f"raised {type(error).__name__} at {place}: {error}")
