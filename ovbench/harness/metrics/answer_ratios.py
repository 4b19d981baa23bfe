"""Stored answers → scores that can be compared pair by pair: which metric is which sum over images.

A metric that is not listed here, or whose recomputed value is not the recorded one, is not compared: better no p-value
than one of another quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ovbench.harness.metrics.interval import Floats, cluster_codes
from ovbench.harness.metrics.mmbench import circle_of
from ovbench.harness.metrics.mme import COGNITION, PERCEPTION, partners_by
from ovbench.harness.metrics.ratios import Ratios

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one run answered to the questions of one task, as arrays of one length n."""

    item_ids: tuple[str, ...]
    images: tuple[str, ...]
    groups: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]  # right ones
    raw: tuple[str, ...]  # what was written
    parsed: tuple[str | None, ...]
    chosen: tuple[str | None, ...]
    correct: Bools = field(repr=False)
    scores: Floats = field(repr=False)  # in [0, 1]: `correct`, where an answer cannot be partly right
    extra: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, places: Sequence[int]) -> Answers:
        """Returns these questions alone, in this order."""
        where = np.asarray(places, dtype=np.intp)
        texts = {
            name: tuple(getattr(self, name)[place] for place in places)
            for name in ("item_ids", "images", "groups", "questions", "answers", "raw", "parsed", "chosen", "extra")
        }
        return Answers(**texts, correct=self.correct[where], scores=self.scores[where])


class NotCompared(Exception):
    """A metric has no form that can be compared; the text says why."""


Build = Callable[[Answers, str | None], Ratios]


def ratios_of(metric: str, group: str | None, answers: Answers) -> Ratios:
    """Returns a recorded metric of a run as sums over images.

    Args:
        metric: Name in records, e.g. `accuracy`, `pope_f1_mean`, `mme_perception`.
        group: Dimension or split; None: all questions.
        answers: The run's, on the questions that are compared; of a group, only its images count.

    Raises:
        NotCompared: There is no such form.
    """
    build = _BUILD.get(metric)
    if build is None:
        raise NotCompared(f"'{metric}' is no sum over questions that is known here")
    if group is not None:
        answers = _of_groups(answers, (group,))
    if not len(answers):
        raise NotCompared("no common question" if group is None else f"no common question is of '{group}'")
    return build(answers, group)


def _of_groups(answers: Answers, groups: Sequence[str]) -> Answers:
    return answers.take([place for place, name in enumerate(answers.groups) if name in groups])


def _is_of(answers: Answers, group: str) -> Floats:
    return np.array([name == group for name in answers.groups], dtype=np.float64)


def _sums(answers: Answers, columns: Floats) -> Floats:
    """Returns the sums of columns [n, K] over the questions of each image, [G, K]."""
    codes, num_images = cluster_codes(answers.images)
    found = np.zeros((num_images, columns.shape[1]))
    np.add.at(found, codes, columns)
    return found


def _made(
    answers: Answers, num: Sequence[Floats], den: Sequence[Floats], weights: Sequence[float], *, is_mean: bool
) -> Ratios:
    both = _sums(answers, np.stack([*num, *den], axis=1))
    return Ratios(num=both[:, : len(num)], den=both[:, len(num) :], weights=np.array(weights), is_mean=is_mean)


def _mean(values: Callable[[Answers], Floats]) -> Build:
    def build(answers: Answers, group: str | None) -> Ratios:
        del group
        return _made(answers, [values(answers)], [np.ones(len(answers))], [1.0], is_mean=True)

    return build


def _macro(answers: Answers, group: str | None) -> Ratios:
    del group
    names = [name for name in dict.fromkeys(answers.groups) if name]
    if not names:
        raise NotCompared("the questions have no groups")
    answers = _of_groups(answers, names)
    counts = [_is_of(answers, name) for name in names]
    shares = [1 / len(names)] * len(names)
    return _made(answers, [answers.scores * part for part in counts], counts, shares, is_mean=True)


def _written_right(answers: Answers) -> Floats:
    pairs = zip(answers.parsed, answers.answers, strict=True)
    return np.array([said is not None and said == right for said, right in pairs], dtype=np.float64)


def _said_yes(answers: Answers) -> Floats:
    return np.array([said == "yes" for said in answers.chosen], dtype=np.float64)


def _unread(answers: Answers) -> Floats:
    return np.array([said is None for said in answers.parsed], dtype=np.float64)


def _confusion(answers: Answers) -> tuple[Floats, Floats, Floats]:
    """Returns per question: a right yes, any yes, a question whose answer is yes."""
    said, true = _said_yes(answers), np.array([answer == "yes" for answer in answers.answers], dtype=np.float64)
    return said * true, said, true


def _precision(answers: Answers, group: str | None) -> Ratios:
    del group
    right, said, _ = _confusion(answers)
    return _made(answers, [right], [said], [1.0], is_mean=False)


def _recall(answers: Answers, group: str | None) -> Ratios:
    del group
    right, _, true = _confusion(answers)
    return _made(answers, [right], [true], [1.0], is_mean=True)  # the denominator is the questions'


def _f1(answers: Answers, group: str | None) -> Ratios:
    del group
    right, said, true = _confusion(answers)
    return _made(answers, [2 * right], [said + true], [1.0], is_mean=False)


def _f1_mean(answers: Answers, group: str | None) -> Ratios:
    del group
    names = [name for name in dict.fromkeys(answers.groups) if name]
    if not names:
        raise NotCompared("the questions have no splits")
    answers = _of_groups(answers, names)
    right, said, true = _confusion(answers)
    parts = [_is_of(answers, name) for name in names]
    num, den = [2 * right * part for part in parts], [(said + true) * part for part in parts]
    return _made(answers, num, den, [1 / len(names)] * len(names), is_mean=False)


def _partners(answers: Answers) -> list[tuple[int, int]]:
    ids = [extra.get("question_id", image) for image, extra in zip(answers.images, answers.extra, strict=True)]
    return partners_by(zip(answers.groups, ids, strict=True))


def _both_right(answers: Answers) -> tuple[Floats, Floats]:
    """Returns per question, at the first of each pair: both right, and that it is a pair."""
    both, pairs = np.zeros(len(answers)), np.zeros(len(answers))
    for first, second in _partners(answers):
        both[first], pairs[first] = float(answers.correct[first] and answers.correct[second]), 1.0
    return both, pairs


def _accuracy_plus(answers: Answers, group: str | None) -> Ratios:
    del group
    places = sorted({place for pair in _partners(answers) for place in pair})
    if not places:
        raise NotCompared("no image was asked both its questions")
    both, pairs = _both_right(answers := answers.take(places))
    return _made(answers, [both], [pairs], [1.0], is_mean=True)


def _mme(categories: tuple[str, ...]) -> Build:
    def build(answers: Answers, group: str | None) -> Ratios:
        names = categories if group is None else (group,)
        answers = _of_groups(answers, names)
        both, pairs = _both_right(answers)
        num: list[Floats] = []
        den: list[Floats] = []
        for name in names:
            counts = _is_of(answers, name)
            if not (pairs * counts).any():
                raise NotCompared(f"'{name}' was not asked in pairs")
            num += [answers.correct * counts, both * counts]
            den += [counts, pairs * counts]
        return _made(answers, num, den, [100.0] * len(num), is_mean=False)  # intervals by bootstrap, as MME's scorer

    return build


def _circular(answers: Answers, group: str | None) -> Ratios:
    del group
    circles: dict[int, list[int]] = {}
    for place, extra in enumerate(answers.extra):
        key = circle_of(extra)
        if key is None:
            raise NotCompared("the stored answers do not say which rows are rotations of one question")
        circles.setdefault(key, []).append(place)
    right, counts = np.zeros(len(answers)), np.zeros(len(answers))
    for places in circles.values():
        right[places[0]], counts[places[0]] = float(answers.correct[places].all()), 1.0
    return _made(answers, [right], [counts], [1.0], is_mean=True)


def _scores(answers: Answers) -> Floats:
    return answers.scores


_BUILD: Mapping[str, Build] = {
    "accuracy": _mean(_scores),
    "seed_image": _mean(_scores),
    "greedy_accuracy": _mean(_written_right),
    "yes_rate": _mean(_said_yes),
    "unparsed_rate": _mean(_unread),
    "accuracy_macro": _macro,
    "accuracy_mean": _macro,
    "seed_image_macro": _macro,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "pope_f1_mean": _f1_mean,
    "accuracy_plus": _accuracy_plus,
    "mme_perception": _mme(PERCEPTION),
    "mme_cognition": _mme(COGNITION),
    "accuracy_circular": _circular,
}
