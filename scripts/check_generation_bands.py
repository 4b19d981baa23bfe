"""Holds the generation side of the mini protocol to the bands that were fixed before training (docs/protocols.md).

    ovbench gen-fid -e ovis3 -e clip -e siglip -e vae -e random --seed 0 --seed 1 --out runs
    python scripts/check_generation_bands.py --out runs

Prints two Markdown tables, the bands and what stands beside them; exits with 1 when a band fails. Claim rows compare
ovis3 with clip: they are printed as they come out and decide nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from ovbench.harness.generation.recipe_config import read_recipe
from ovbench.harness.protocols import load_protocol
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore

SUITES = ("reconstruction", "generation")
TRAINED = ("ovis3/mini", "clip/mini", "siglip/mini")
VAE, RANDOM = "vae/mini", "random/mini"
DISTANCE = "FD-wardrobe"
QUARTER = "2.5 epochs"
MAX_MINUTES = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the table."""

    name: str
    values: tuple[float, ...]  # one per seed
    low: float | None = None
    high: float | None = None
    claim: bool = False  # reported, and no band

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def passed(self) -> bool:
        """Whether the mean lies in the band."""
        return (self.low is None or self.mean >= self.low) and (self.high is None or self.mean <= self.high)

    def row(self) -> str:
        """One line of Markdown."""
        band = f"at least {self.low:g}" if self.high is None else f"at most {self.high:g}"
        seeds = ", ".join(f"{value:.2f}" for value in self.values)
        word = "pass" if self.passed else "**FAIL**"
        return f"| {self.name} | {band}{' (claim)' if self.claim else ''} | {seeds} | {self.mean:.2f} | {word} |"


Runs = dict[tuple[str, str], dict[int, RunRecord]]  # (suite, encoder) → seed → record


def runs_of(store: RunStore) -> Runs:
    """Returns the newest records of the mini protocol; the same two seeds or more of every encoder and suite.

    Runs with another number of samples than the protocol's are left out: their distances and times are others.
    """
    wanted = _num_samples()
    found: Runs = {}
    for record in store.newest():
        counted = all(task.n == wanted for task in record.tasks if task.kind == "generation")
        if record.protocol.name == "mini" and record.suite in SUITES and counted:
            found.setdefault((record.suite, record.encoder.spec), {})[record.seed] = record
    names = [(suite, name) for name in (*TRAINED, VAE, RANDOM) for suite in SUITES]
    for suite, name in names:
        if (count := len(found.get((suite, name), {}))) < 2:
            sys.exit(f"{store.root} holds {count} runs of {name}, {suite}; two seeds are needed")
    seeds = sorted(set.intersection(*(set(found[key]) for key in names)))
    if len(seeds) < 2:
        sys.exit(f"{store.root} holds {len(seeds)} seeds that all encoders ran in both suites; two are needed")
    return {key: {seed: found[key][seed] for seed in seeds} for key in names}


def _num_samples() -> int:
    return read_recipe(load_protocol("mini").section("generation"), where="mini").sampling.num_samples


def score(record: RunRecord, metric: str, group: str | None = None) -> float:
    """Returns a score of a record."""
    (value,) = (entry.value for entry in record.metrics if (entry.name, entry.group) == (metric, group))
    assert value is not None, f"{metric} of {record.run_id} is missing"
    return value


def checks_of(runs: Runs) -> list[Check]:
    """Returns the rows."""

    def of(suite: str, name: str, metric: str, group: str | None = None) -> tuple[float, ...]:
        return tuple(score(record, metric, group) for record in runs[suite, name].values())

    checks = [
        Check(name="PSNR of `vae`, dB", values=of("reconstruction", VAE, "PSNR"), low=26.0),
        Check(name="rFD of `vae`", values=of("reconstruction", VAE, DISTANCE), high=6.0),
    ]
    for name in (*TRAINED, VAE):
        ends = of("generation", name, DISTANCE)
        quarters = of("generation", name, DISTANCE, QUARTER)
        ratios = tuple(end / quarter for end, quarter in zip(ends, quarters, strict=True))
        checks.append(Check(name=f"gFD of `{name}`", values=ends, high=40.0))
        checks.append(Check(name=f"gFD of `{name}` / its value at a quarter", values=ratios, high=0.5))
    for name in (*TRAINED, VAE, RANDOM):
        minutes = tuple(seconds_of(runs, name, seed) / 60 for seed in runs["generation", name])
        checks.append(Check(name=f"minutes of `{name}`, all steps", values=minutes, high=MAX_MINUTES))
    ovis3, clip = TRAINED[0], TRAINED[1]
    gaps = tuple(
        one - other
        for one, other in zip(of("reconstruction", ovis3, "PSNR"), of("reconstruction", clip, "PSNR"), strict=True)
    )
    checks.append(Check(name="PSNR of `ovis3` minus `clip`, dB", values=gaps, low=0.7, claim=True))
    shares = tuple(
        one / other
        for one, other in zip(of("reconstruction", ovis3, DISTANCE), of("reconstruction", clip, DISTANCE), strict=True)
    )
    checks.append(Check(name="rFD of `ovis3` / `clip`", values=shares, high=0.8, claim=True))
    return checks


def seconds_of(runs: Runs, name: str, seed: int) -> float:
    """Returns what the steps of both suites cost when they were made, each counted once."""
    made: dict[str, float] = {}
    for suite in SUITES:
        record = runs[suite, name][seed]
        for step in record.steps:
            if step.made_in_s is None:
                sys.exit(f"{record.run_id} does not know what its step '{step.name}' cost; run it with an empty cache")
            made[step.key] = step.made_in_s
    return sum(made.values())


def overview(runs: Runs) -> list[str]:
    """Returns the rows of the second table: what was measured, mean of the seeds."""
    rows = [
        "| encoder | PSNR dB | SSIM | rFD | gFD untrained | 2.5 epochs | 5 epochs | 7.5 epochs | end | read-back % |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|---|")
    for name in (*TRAINED, VAE, RANDOM):

        def mean(suite: str, metric: str, group: str | None = None, name: str = name) -> float:
            values = [score(record, metric, group) for record in runs[suite, name].values()]
            return sum(values) / len(values)

        parts = [mean("reconstruction", metric) for metric in ("PSNR", "SSIM", DISTANCE)]
        parts += [
            mean("generation", DISTANCE, group) for group in ("untrained", QUARTER, "5 epochs", "7.5 epochs", None)
        ]
        texts = [f"{value:.2f}" for value in parts] + [f"{100 * mean('generation', 'class read-back'):.1f}"]
        rows.append(f"| `{name}` | {' | '.join(texts)} |")
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of run records")
    runs = runs_of(RunStore(parser.parse_args().out))
    checks = checks_of(runs)
    print("| check | band | seeds | mean | |\n|---|---|---|---|---|")  # noqa: T201
    print("\n".join([*(check.row() for check in checks), "", *overview(runs)]))  # noqa: T201
    sys.exit(0 if all(check.passed or check.claim for check in checks) else 1)


if __name__ == "__main__":
    main()
