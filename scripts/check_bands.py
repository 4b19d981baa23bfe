"""Holds the miniature encoders to the bands that were fixed before they were trained (docs/protocols.md).

    ovbench run -e ovis3 -e clip -e siglip -e random --seed 0 --seed 1 --out runs
    python scripts/check_bands.py --out runs

Prints a Markdown table with both seeds, their mean, and pass or FAIL; exits with 1 when a row fails.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from ovbench.encoders.registry import load_encoder
from ovbench.harness.pretraining.probe import probe
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.tasks.world.draw import embedded_sprites

TRAINED = ("ovis3/mini", "clip/mini", "siglip/mini")
RANDOM = "random/mini"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the table."""

    name: str
    values: tuple[float, ...]  # one per seed
    low: float = 0.0
    high: float = 1.0

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def passed(self) -> bool:
        """Whether the mean lies in the band."""
        return self.low <= self.mean <= self.high

    def row(self) -> str:
        """One line of Markdown, values in percent."""
        band = f"{100 * self.low:.0f} to {100 * self.high:.0f}"
        seeds = ", ".join(f"{100 * value:.1f}" for value in self.values)
        return f"| {self.name} | {band} | {seeds} | {100 * self.mean:.1f} | {'pass' if self.passed else '**FAIL**'} |"


def score(record: RunRecord, task: str, control: str) -> float:
    """Returns the accuracy of a task under a control."""
    (value,) = (
        metric.value
        for metric in record.metrics
        if (metric.task, metric.name, metric.control, metric.group) == (task, "accuracy", control, None)
    )
    assert value is not None, "accuracy always has a value"
    return value


def probe_checks() -> list[Check]:
    """Returns the garment probe of each encoder on whole scenes of test photographs."""
    checks = []
    for name in (*TRAINED, RANDOM):
        encoder = load_encoder(name)

        def tokens_of(images_pm1: torch.Tensor, encoder=encoder) -> torch.Tensor:
            return encoder.llm_tokens((images_pm1 + 1.0) / 2.0)

        value = probe(tokens_of, embedded_sprites("train"), embedded_sprites("test"))["class"]
        low, high = (0.0, 0.42) if name == RANDOM else (0.50, 1.0)
        checks.append(Check(name=f"garment probe on scenes, `{name}`", values=(value,), low=low, high=high))
    return checks


def run_checks(store: RunStore) -> list[Check]:
    """Returns the rows on mini-seed and mini-pope."""
    records: dict[str, list[RunRecord]] = {}
    for record in store.newest():
        if record.protocol.name == "mini" and record.suite == "understanding" and record.limit is None:
            records.setdefault(record.encoder.spec, []).append(record)
    for name in (*TRAINED, RANDOM):
        if len(records.get(name, [])) < 2:
            sys.exit(f"{store.root} holds {len(records.get(name, []))} runs of {name}; two seeds are needed")

    def of(name: str, task: str, control: str = "none") -> tuple[float, ...]:
        return tuple(score(record, task, control) for record in sorted(records[name], key=lambda item: item.seed))

    checks = [Check(name=f"mini-seed, `{name}`", values=of(name, "mini-seed"), low=0.55) for name in TRAINED]
    means = [check.mean for check in checks]
    checks.append(Check(name="mini-seed, widest gap of the trained", values=(max(means) - min(means),), high=0.08))
    checks += [Check(name=f"mini-pope, `{name}`", values=of(name, "mini-pope"), low=0.72) for name in TRAINED]
    base = of(RANDOM, "mini-seed")
    for name in TRAINED:
        gains = tuple(mine - theirs for mine, theirs in zip(of(name, "mini-seed"), base, strict=True))
        checks.append(Check(name=f"mini-seed, `{name}` minus `random`", values=gains, low=0.15))
    checks.append(Check(name="mini-pope, `random`", values=of(RANDOM, "mini-pope"), high=0.62))
    for name in (*TRAINED, RANDOM):
        for control in ("shuffled", "blind"):
            for task, low, high in (("mini-seed", 0.20, 0.31), ("mini-pope", 0.45, 0.55)):
                checks.append(
                    Check(name=f"{task}, {control}, `{name}`", values=of(name, task, control), low=low, high=high)
                )
    return checks


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of run records")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checks = [*probe_checks(), *run_checks(RunStore(arguments.out))]
    print("| check | band % | seeds | mean | |\n|---|---|---|---|---|")  # noqa: T201
    print("\n".join(check.row() for check in checks))  # noqa: T201
    sys.exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    main()
