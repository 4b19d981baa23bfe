"""POPE (arXiv 2305.10355): the official numbers, and those of lmms-eval, VLMEvalKit and cambrian beside them.

The headline is the mean of the three splits' F1 with the official parse of the stripped text: what LLaVA-1.5 calls
POPE. Where POPE's evaluate.py divides by zero and stops, the ratio is 0 and is counted in `n_zero_divisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovbench.harness.metrics.base import (
    MetricSpec,
    ScoredMetric,
    collect,
    count_spec,
    counted,
    group_order,
    pair,
)
from ovbench.harness.metrics.interval import Floats, bootstrap_interval, cluster_codes, mean_interval, no_interval
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, by_text, grouped, share_right
from ovbench.harness.metrics.yesno import Pairs, f1_mean, score_yesno
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_yesno import bare_word, first_word, one_word, pope_official

SCORER = "pope-1"  # name and version; a change of any number raises the version
_POPE = "POPE (arXiv 2305.10355), evaluate.py of AoiDragon/POPE"
_LMMS = "lmms-eval 0.7.3, tasks/pope/utils.py"

N_UNPARSED = count_spec("n_unparsed", "answers without one of the words yes and no", "VLMEvalKit, utils/yorn.py")
N_ZERO_DIVISIONS = count_spec("n_zero_divisions", "ratios that are 0 / 0, where POPE's script stops", _POPE)
_RATIOS = ("precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Counts of yes/no answers; `yes` is the positive class."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, said: Sequence[str | None], true: Sequence[str], *, unread: str | None = None) -> Confusion:
        """Counts answers.

        Args:
            said: `yes`, `no`, or None where nothing was read.
            true: `yes` or `no`.
            unread: What an answer counts as in which nothing was read; None: it is in no count.
        """
        pairs = [(unread if word is None else word, label) for word, label in zip(said, true, strict=True)]
        count = {key: pairs.count(key) for key in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"))}
        tp, fp, tn, fn = count.values()
        return cls(tp=tp, fp=fp, tn=tn, fn=fn)

    @property
    def accuracy(self) -> float:
        """The share of counted answers that are right."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP), 0 where that is 0 / 0."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), 0 where that is 0 / 0."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2PR / (P + R), 0 where that is 0 / 0."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """The share of counted answers that are yes."""
        return _ratio(self.tp + self.fp, self.tp + self.fp + self.tn + self.fn)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def official_scores(said: Sequence[str | None], true: Sequence[str]) -> dict[str, float]:
    """Returns accuracy, precision, recall, f1, yes_ratio as POPE's script prints them, 0 where it divides by zero."""
    counts = Confusion.of(said, true)
    return {name: getattr(counts, name) for name in ("accuracy", *_RATIOS, "yes_ratio")}


def lmms_scores(said: Sequence[str | None], true: Sequence[str]) -> dict[str, float]:
    """Returns lmms-eval's five numbers under its names.

    Trap: an answer that is not exactly yes or no is wrong in `pope_accuracy` and left out of the other ratios, and
    `pope_yes_ratio` counts what should have been said.
    """
    counts = Confusion.of(said, true)
    right = sum(word == label for word, label in zip(said, true, strict=True))
    return {
        "pope_accuracy": right / len(true),
        "pope_precision": counts.precision,
        "pope_recall": counts.recall,
        "pope_f1_score": counts.f1,
        "pope_yes_ratio": sum(label == "yes" for label in true) / len(true),
    }


def vlmevalkit_scores(said: Sequence[str | None], true: Sequence[str]) -> dict[str, float]:
    """Returns VLMEvalKit's numbers: an unread answer is wrong in `acc` and counts as no elsewhere; `Overall` is F1."""
    counts = Confusion.of(said, true, unread="no")
    right = sum(word == label for word, label in zip(said, true, strict=True))
    return {
        "Overall": counts.f1,
        "acc": right / len(true),
        "precision": counts.precision,
        "recall": counts.recall,
    }


def score_pope(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "pope"
) -> dict[str, ScoredMetric]:
    """Scores POPE's answers.

    Args:
        samples: The questions, grouped by split.
        predictions: One answer per question, in any order.
        groups: Order of the splits.
        label: Name of the task, for the bootstrap's draws.

    Returns:
        By key: `pope_f1_mean`, `accuracy_mean`; `accuracy`, `precision`, `recall`, `f1`, `yes_rate` over all rows and
        per split as `f1[popular]`; `n_unparsed`, `n_zero_divisions`; lmms-eval's numbers over all rows as `pope_…`.

    Raises:
        DataError: Answers do not match the questions, or are neither yes nor no.
    """
    plain = score_yesno(samples, predictions, groups=groups, label=label)
    flagged = [key for key, score in plain.items() if score.value is None and score.spec.name in _RATIOS]
    for key in flagged:
        why = f"POPE's script divides by zero here ({plain[key].reason}), 0 is reported"
        plain[key] = replace(plain[key], value=0.0, interval=no_interval(why), reason=None)
    pairs = pair(samples, predictions)
    names = group_order(samples, groups)
    by_group = {name: [item for item in pairs if item[0].group == name] for name in names}
    if by_group:
        plain["pope_f1_mean"] = f1_mean(plain, by_group, label)
    unread = sum(one_word(prediction.raw) is None for _, prediction in pairs)
    extra = [
        counted(N_UNPARSED, unread, len(pairs)),
        counted(N_ZERO_DIVISIONS, len(flagged), len(pairs)),
        *_lmms_metrics(pairs, label),
    ]
    first = [plain[key] for key in ("pope_f1_mean", "accuracy_mean") if key in plain]
    return collect([*first, *[score for score in plain.values() if score not in first], *extra])


def _lmms_spec(name: str, title: str, better: bool | None) -> MetricSpec:
    return MetricSpec(name=name, title=f"lmms-eval's {title}", unit="fraction", higher_is_better=better, citation=_LMMS)


_LMMS_RATIOS: Mapping[str, tuple[MetricSpec, Callable[[Floats], Floats]]] = {
    # Of sums [D, 3]: true positives, false positives, yes questions answered no.
    "pope_precision": (
        _lmms_spec("pope_precision", "precision", True),
        lambda sums: _shares(sums[:, 0], sums[:, 0] + sums[:, 1]),
    ),
    "pope_recall": (
        _lmms_spec("pope_recall", "recall", True),
        lambda sums: _shares(sums[:, 0], sums[:, 0] + sums[:, 2]),
    ),
    "pope_f1_score": (
        _lmms_spec("pope_f1_score", "F1", True),
        lambda sums: _shares(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]),
    ),
}


def _shares(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _lmms_metrics(pairs: Pairs, label: str) -> list[ScoredMetric]:
    said = [bare_word(prediction.raw) for _, prediction in pairs]
    true = [sample.answer for sample, _ in pairs]
    images = [sample.image_id for sample, _ in pairs]
    numbers = lmms_scores(said, true)
    right = np.array([word == answer for word, answer in zip(said, true, strict=True)], dtype=np.float64)
    cells: dict[tuple[str | None, str], int] = {("yes", "yes"): 0, ("yes", "no"): 1, ("no", "yes"): 2}
    codes, num_images = cluster_codes(images)
    counts = np.zeros((num_images, 3))
    for code, cell in zip(codes, zip(said, true, strict=True), strict=True):
        if cell in cells:
            counts[code, cells[cell]] += 1
    intervals = {"pope_accuracy": mean_interval(right, images)}
    for name, (_, statistic) in _LMMS_RATIOS.items():
        intervals[name] = bootstrap_interval(counts, statistic, label=f"{label}/{name}")
    intervals["pope_yes_ratio"] = no_interval("it counts the questions")
    specs = {name: spec for name, (spec, _) in _LMMS_RATIOS.items()} | {
        "pope_accuracy": _lmms_spec("pope_accuracy", "accuracy", True),
        "pope_yes_ratio": _lmms_spec("pope_yes_ratio", "share of questions whose answer is yes", None),
    }
    return [
        ScoredMetric(spec=specs[name], group=None, value=value, n=len(pairs), interval=intervals[name])
        for name, value in numbers.items()
    ]


def _columns(readings: Sequence[Read]) -> tuple[list[str | None], list[str]]:
    return [item.said for item in readings], [item.sample.answer for item in readings]


def _per_split(
    scores: Callable[[Sequence[str | None], Sequence[str]], dict[str, float]], readings: Sequence[Read]
) -> dict[str, float]:
    found = scores(*_columns(readings))
    for name, items in grouped(readings).items():
        found |= {f"{key}[{name}]": value for key, value in scores(*_columns(items)).items()}
    return found


def _official(readings: Sequence[Read]) -> dict[str, float]:
    found = _per_split(official_scores, readings)
    splits = grouped(readings) or {"": list(readings)}
    for name in ("f1", "accuracy"):
        values = [official_scores(*_columns(items))[name] for items in splits.values()]
        found[f"mean of the splits' {name}"] = sum(values) / len(values)
    return found


_OURS = ("accuracy", *_RATIOS)
PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": ScoringProtocol(
        title="POPE's evaluate.py on the text as it was stored, and the mean over the splits",
        read=by_text(pope_official),
        aggregate=_official,
        headline="mean of the splits' f1",
        ours={
            "mean of the splits' f1": "pope_f1_mean",
            "mean of the splits' accuracy": "accuracy_mean",
            **{name: name for name in _OURS},
        },
        citation=_POPE,
    ),
    "llava": ScoringProtocol(
        title="LLaVA's eval_pope.py: the same rule on the stripped text",
        read=lambda item: pope_official(item.raw.strip()),
        aggregate=_official,
        headline="mean of the splits' f1",
        ours={"mean of the splits' f1": "pope_f1_mean", "mean of the splits' accuracy": "accuracy_mean"},
        citation="LLaVA, llava/eval/eval_pope.py; LLaVA-1.5 (arXiv 2310.03744), table 4",
    ),
    "lmms-eval": ScoringProtocol(
        title="exactly yes or no, else wrong and left out of F1; all rows pooled",
        read=by_text(bare_word),
        aggregate=lambda readings: _per_split(lmms_scores, readings),
        headline="pope_f1_score",
        ours={
            "pope_f1_score": "pope_f1_mean",
            "pope_accuracy": "accuracy",
            "pope_precision": "precision",
            "pope_recall": "recall",
        },
        citation=_LMMS,
    ),
    "vlmevalkit": ScoringProtocol(
        title="the one of yes and no that stands as a word; without a judge the rest is wrong and counts as no in F1",
        read=by_text(one_word),
        aggregate=lambda readings: _per_split(vlmevalkit_scores, readings),
        headline="Overall",
        ours={"Overall": "pope_f1_mean", "acc": "accuracy", "precision": "precision", "recall": "recall"},
        citation="VLMEvalKit, vlmeval/dataset/utils/yorn.py",
    ),
    "cambrian": ScoringProtocol(
        title="accuracy of the first word; it is no F1",
        read=by_text(first_word),
        aggregate=lambda readings: {"accuracy": share_right(readings)},
        headline="accuracy",
        ours={"accuracy": "accuracy"},
        citation="cambrian, eval/eval/pope/pope_test.py",
    ),
}
