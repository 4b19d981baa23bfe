"""Do the intervals cover, and do the tests keep their size? Simulated answers, many times over; one JSON object.

Each trial draws the answers of two runs to `images` x `questions`. Within an image answers are beta-binomial: the image
has a chance of its own to be answered right, which gives answers about it the correlation `rho`. The two runs share
most of that chance (an image that is hard for one is hard for the other). The truth is known, so that

- coverage is the share of trials whose nominal 95% interval holds it (aim: 93 to 97%), beside the formula
  p (1 - p) / n that takes questions for independent;
- size is the share of trials in which a 5% test calls two equal runs different (aim: 4 to 6%);
- power is the same share for two runs that do differ, paired by question and unpaired.

    python scripts/coverage_statistics.py
    python scripts/coverage_statistics.py --trials 500 --null-trials 1000
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovbench.harness.metrics.interval import bootstrap_interval, mean_interval
from ovbench.harness.metrics.paired import compare_scores
from ovbench.harness.metrics.permutation import mcnemar, swap_test
from ovbench.harness.metrics.ratios import Ratios, clustered_error
from ovbench.harness.metrics.student import t_two_sided
from ovbench.results.quantile import t_quantile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEVEL = 0.05
SWAPS = 999  # per test here: enough for the 5% mark, and ten times as fast as the command's
_Z = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """How simulated answers come about."""

    images: int = 500
    questions: int = 18  # an image
    accuracy: float = 0.85  # of both runs, before the gap
    rho: float = 0.15  # correlation of two answers of one run about one image
    shared: float = 0.8  # of the logit of an image's chance that the two runs have in common
    gap: float = 0.0  # accuracy of the first minus accuracy of the second
    yes_share: float = 0.5  # of the questions

    def draw(self, generator: np.random.Generator) -> tuple[Bools, Bools]:
        """Returns right or wrong of both runs, bool [images, questions] each.

        The chances of an image are two beta variables with equal margins and dependent values: beta quantiles of
        normal variables that correlate by `shared` (a Gaussian copula), from a table.
        """
        common = generator.standard_normal(self.images) * math.sqrt(self.shared)
        found: list[Bools] = []
        for mean in (self.accuracy + self.gap / 2, self.accuracy - self.gap / 2):
            own = generator.standard_normal(self.images) * math.sqrt(1 - self.shared)
            chances = _beta_of_normal(common + own, mean, self.rho)
            found.append(generator.random((self.images, self.questions)) < chances[:, None])
        return found[0], found[1]

    @property
    def names(self) -> list[str]:
        """The image of each question, in order."""
        return [f"{image:04d}" for image in range(self.images) for _ in range(self.questions)]


_TABLES: dict[tuple[float, float], tuple[Floats, Floats]] = {}


def _beta_of_normal(normal: Floats, mean: float, rho: float) -> Floats:
    """Returns beta variables with mean `mean` and a = mean s, b = (1 - mean) s, s = 1 / rho - 1, by their quantiles."""
    key = mean, rho
    if key not in _TABLES:
        size = 1 / rho - 1
        first, second = mean * size, (1 - mean) * size
        # With x = sin^2(t) the density is smooth at both ends even where a or b is below 1.
        angle = np.linspace(0.0, np.pi / 2, 200_001)
        middle = (angle[1:] + angle[:-1]) / 2
        mass = np.sin(middle) ** (2 * first - 1) * np.cos(middle) ** (2 * second - 1)
        levels = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
        _TABLES[key] = levels, np.sin(angle) ** 2
    levels, values = _TABLES[key]
    return np.interp(_normal_cdf(normal), levels, values)


def _normal_cdf(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def _correct(right: Bools) -> Ratios:
    """Returns accuracy as sums over images."""
    counts = np.full((len(right), 1), float(right.shape[1]))
    return Ratios(num=right.sum(axis=1, dtype=np.float64)[:, None], den=counts, weights=np.ones(1), is_mean=True)


def _f1(right: Bools, yes: Bools) -> Ratios:
    """Returns F1 as sums over images; `yes` says which questions have the answer yes, [questions]."""
    said = right == yes  # a right yes, or a wrong no
    num = 2.0 * (said & yes).sum(axis=1)
    den = said.sum(axis=1) + yes.sum() * np.ones(len(right))
    return Ratios(num=num[:, None], den=den[:, None], weights=np.ones(1), is_mean=False)


def _yes(world: World) -> Bools:
    return np.arange(world.questions) < round(world.yes_share * world.questions)


def _covers(low: float | None, high: float | None, truth: float) -> bool:
    assert low is not None, "a simulated score has an interval"
    assert high is not None, "a simulated score has an interval"
    return low <= truth <= high


def _true_f1(world: World, accuracy: float) -> float:
    """Returns the F1 that infinitely many images would have."""
    yes = _yes(world).mean()
    true_yes, false_yes = accuracy * yes, (1 - accuracy) * (1 - yes)
    return 2 * true_yes / (true_yes + false_yes + yes)


def coverage(world: World, trials: int, seed: int) -> dict[str, float]:
    """Returns how often nominal 95% intervals of single scores and of differences hold the truth."""
    names, yes = world.names, _yes(world)
    best, least = world.accuracy + world.gap / 2, world.accuracy - world.gap / 2
    hits: dict[str, int] = {}

    def count(name: str, low: float | None, high: float | None, truth: float) -> None:
        hits[name] = hits.get(name, 0) + _covers(low, high, truth)

    for trial in range(trials):
        one, two = world.draw(np.random.default_rng([seed, trial]))
        flat = one.ravel().astype(np.float64)
        found = mean_interval(flat, names)
        count("accuracy, clustered", found.low, found.high, best)
        mean, n = float(flat.mean()), flat.size
        half = _Z * math.sqrt(mean * (1 - mean) / n)
        count("accuracy, naive p(1-p)/n", mean - half, mean + half, best)
        ratio = _f1(one, yes)
        drawn = bootstrap_interval(
            np.concatenate([ratio.num, ratio.den], axis=1),
            lambda sums: sums[:, 0] / sums[:, 1],
            label="f1",
            seed=trial,
        )
        count("F1, bootstrap over images", drawn.low, drawn.high, _true_f1(world, best))
        f1 = ratio.value
        half = _Z * math.sqrt(f1 * (1 - f1) / n)
        count("F1, naive p(1-p)/n", f1 - half, f1 + half, _true_f1(world, best))
        pair = compare_scores(_correct(one), _correct(two), label="accuracy", seed=trial, num_draws=99)
        count("difference of accuracy, clustered", pair.clustered.low, pair.clustered.high, world.gap)
        count("difference of accuracy, bootstrap", pair.bootstrap.low, pair.bootstrap.high, world.gap)
        gaps = one.astype(np.float64).ravel() - two.ravel()
        half = _Z * float(gaps.std()) / math.sqrt(n)
        count("difference of accuracy, naive", gaps.mean() - half, gaps.mean() + half, world.gap)
        pair = compare_scores(_f1(one, yes), _f1(two, yes), label="f1", seed=trial, num_draws=99)
        truth = _true_f1(world, best) - _true_f1(world, least)
        count("difference of F1, bootstrap", pair.bootstrap.low, pair.bootstrap.high, truth)
    return {name: number / trials for name, number in hits.items()}


def _unpaired_p(one: Ratios, two: Ratios) -> float:
    """Returns the p-value of two clustered intervals, as if the runs had nothing in common."""
    error = math.hypot(clustered_error(one.influence()), clustered_error(two.influence()))
    return t_two_sided((one.value - two.value) / error, 2 * (one.num_images - 1))


def _overlap_p(one: Ratios, two: Ratios) -> float:
    """Returns 0 where the two 95% intervals do not overlap, else 1: how tables are often read."""
    bound = t_quantile(one.num_images - 1)
    reach = bound * (clustered_error(one.influence()) + clustered_error(two.influence()))
    return float(abs(one.value - two.value) <= reach)


def rejections(world: World, trials: int, seed: int) -> dict[str, float]:
    """Returns how often each 5% test calls the two runs different."""
    yes = _yes(world)
    counts: dict[str, int] = {}
    for trial in range(trials):
        one, two = world.draw(np.random.default_rng([seed, trial]))
        first, second = _correct(one), _correct(two)
        f1 = _f1(one, yes), _f1(two, yes)
        gaps = first.influence() - second.influence()
        error = clustered_error(gaps)
        tests: dict[str, Callable[[], float]] = {
            "swaps of images, accuracy": lambda a=first, b=second, t=trial: (
                swap_test(a, b, label="a", seed=t, num_draws=SWAPS).p
            ),
            "swaps of images, F1": lambda f=f1, t=trial: swap_test(*f, label="f", seed=t, num_draws=SWAPS).p,
            "paired t, clustered": lambda a=first, b=second, e=error: t_two_sided(
                (a.value - b.value) / e, a.num_images - 1
            ),
            "naive McNemar over questions": lambda a=one, b=two: mcnemar(a.ravel(), b.ravel()).mid_p,
            "unpaired t, clustered": lambda a=first, b=second: _unpaired_p(a, b),
            "intervals do not overlap": lambda a=first, b=second: _overlap_p(a, b),
        }
        for name, p_of in tests.items():
            counts[name] = counts.get(name, 0) + (p_of() < LEVEL)
    return {name: number / trials for name, number in counts.items()}


def single_questions(world: World, trials: int, seed: int) -> dict[str, float]:
    """Returns how often McNemar's tests and swaps reject where each image has one question."""
    counts = {"McNemar exact": 0, "McNemar mid-p": 0, "swaps of images": 0}
    for trial in range(trials):
        one, two = world.draw(np.random.default_rng([seed, trial]))
        found = mcnemar(one[:, 0], two[:, 0])
        counts["McNemar exact"] += found.exact_p < LEVEL
        counts["McNemar mid-p"] += found.mid_p < LEVEL
        swaps = swap_test(_correct(one), _correct(two), label="s", seed=trial, num_draws=SWAPS)
        counts["swaps of images"] += swaps.p < LEVEL
    return {name: number / trials for name, number in counts.items()}


def margin(share: float, trials: int) -> float:
    """Returns two standard errors of a share of trials."""
    return 2 * math.sqrt(share * (1 - share) / trials)


def report(trials: int, null_trials: int, seed: int) -> dict[str, Any]:
    """Returns all figures."""
    began = time.process_time()
    world = World()
    apart = World(gap=0.01)
    single = World(images=1000, questions=1)
    return {
        "world": {name: getattr(world, name) for name in World.__slots__},
        "trials": trials,
        "null_trials": null_trials,
        "seed": seed,
        "coverage": coverage(apart, trials, seed),
        "size": rejections(world, null_trials, seed + 1),
        "power_at_1_point": rejections(apart, trials, seed + 2),
        "size_one_question_an_image": single_questions(single, null_trials, seed + 3),
        "two_standard_errors": {"coverage": margin(0.95, trials), "size": margin(0.05, null_trials)},
        "cpu_seconds": round(time.process_time() - began, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of coverage and power")
    parser.add_argument("--null-trials", type=int, default=4000, help="of size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(report(arguments.trials, arguments.null_trials, arguments.seed), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
