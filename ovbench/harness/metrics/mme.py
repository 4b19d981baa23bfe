"""MME (arXiv 2306.13394): perception, cognition and their 14 categories, in points.

A category's score is 100 accuracy + 100 accuracy+, where accuracy+ is the share of images with both questions right;
perception is the sum of ten (at most 2000), cognition that of four (at most 800). "MME" in papers is perception alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ovbench.harness.metrics.base import (
    MetricSpec,
    ScoredMetric,
    collect,
    count_spec,
    counted,
    group_order,
    pair,
    undefined,
)
from ovbench.harness.metrics.choice import Pairs
from ovbench.harness.metrics.interval import Floats, bootstrap_interval, cluster_codes, mean_interval
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, by_text
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_yesno import mme_official, mme_without_dots, one_word

SCORER = "mme-1"  # name and version; a change of any number raises the version
_MME = "MME (arXiv 2306.13394), eval_tool/calculation.py"

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _spec(name: str, title: str, unit: str) -> MetricSpec:
    return MetricSpec(name=name, title=title, unit=unit, higher_is_better=True, citation=_MME)


MME_PERCEPTION = _spec("mme_perception", "sum of the ten perception categories", "points")
MME_COGNITION = _spec("mme_cognition", "sum of the four cognition categories", "points")
ACCURACY = _spec("accuracy", "share of questions answered right", "fraction")
ACCURACY_PLUS = _spec("accuracy_plus", "share of images with both questions right", "fraction")
N_OTHER = count_spec("n_other", "answers that are neither yes nor no, which are wrong", _MME)
N_UNPAIRED = count_spec("n_unpaired", "questions whose partner was not asked, left out of accuracy+", _MME)

# Columns per category of the count matrix; a row is an image.
_RIGHT, _ASKED, _BOTH, _PAIRS = range(4)


def partners(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Returns the places of the two questions of each pair, in the order of the second ones.

    Partners have one category and one `question_id`, or one image where the rows carry no such id. MME's own script
    goes by the order of the lines; so do more than two questions with one id. A question left over is in no pair.
    """
    return partners_by((sample.group, sample.extra.get("question_id", sample.image_id)) for sample in samples)


def partners_by(keys: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Returns `partners` of questions of which only category and id (or image) are given."""
    waiting: dict[tuple[str, str], int] = {}
    found: list[tuple[int, int]] = []
    for place, key in enumerate(keys):
        if key in waiting:
            found.append((waiting.pop(key), place))
        else:
            waiting[key] = place
    return found


def category_scores(samples: Sequence[Sample], right: Sequence[bool]) -> dict[str, float]:
    """Returns each category's points, 0 to 200; a category without a pair is left out."""
    pairs = partners(samples)
    scores: dict[str, float] = {}
    for category in dict.fromkeys(sample.group for sample in samples):
        asked = [right[place] for place, sample in enumerate(samples) if sample.group == category]
        both = [right[first] and right[second] for first, second in pairs if samples[first].group == category]
        if both:
            scores[category] = 100 * sum(asked) / len(asked) + 100 * sum(both) / len(both)
    return scores


def score_mme(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "mme"
) -> dict[str, ScoredMetric]:
    """Scores MME's answers.

    Args:
        samples: The questions, grouped by category (names as in PERCEPTION and COGNITION), in the order of the file.
        predictions: One answer per question, in any order; `chosen` None is "other", which is wrong.
        groups: Order of the categories.
        label: Name of the task, for the bootstrap's draws.

    Returns:
        By key: `mme_perception` and `mme_cognition` with their categories' points as `mme_perception[scene]`;
        `accuracy` and `accuracy_plus`, in all and per category; `n_other`, `n_unpaired`. A sum has no value where one
        of its categories was not asked in pairs.

    Raises:
        DataError: Answers do not match the questions.
    """
    pairs = pair(samples, predictions)
    names = group_order(samples, groups)
    counts, num_unpaired = _counts(pairs, names)
    scores: list[ScoredMetric] = []
    for spec, categories in ((MME_PERCEPTION, PERCEPTION), (MME_COGNITION, COGNITION)):
        scores.append(_total(spec, categories, names, counts, pairs, label))
        for name in names:
            if name in categories:
                scores.append(_points(spec, name, names.index(name), counts, label))
    for group in (None, *names):
        scores += _shares(pairs, group)
    other = sum(prediction.chosen is None for _, prediction in pairs)
    scores += [counted(N_OTHER, other, len(pairs)), counted(N_UNPAIRED, num_unpaired, len(pairs))]
    return collect(scores)


def _counts(pairs: Pairs, names: Sequence[str]) -> tuple[Floats, int]:
    """Returns [images, 4 per category] and how many questions have no partner."""
    samples = [sample for sample, _ in pairs]
    right = [prediction.correct for _, prediction in pairs]
    codes, num_images = cluster_codes([sample.image_id for sample in samples])
    counts = np.zeros((num_images, 4 * len(names)))
    place = {name: 4 * index for index, name in enumerate(names)}
    for code, sample, good in zip(codes, samples, right, strict=True):
        if sample.group:
            counts[code, place[sample.group] + _RIGHT] += good
            counts[code, place[sample.group] + _ASKED] += 1
    found = partners(samples)
    for first, second in found:
        if group := samples[first].group:
            counts[codes[first], place[group] + _BOTH] += right[first] and right[second]
            counts[codes[first], place[group] + _PAIRS] += 1
    return counts, len(samples) - 2 * len(found)


def _category(sums: Floats, index: int) -> Floats:
    """Returns a category's points of each draw, [D]; NaN where it was not drawn."""
    part = sums[:, 4 * index : 4 * index + 4]
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * part[:, _RIGHT] / part[:, _ASKED] + 100 * part[:, _BOTH] / part[:, _PAIRS]


def _points(spec: MetricSpec, group: str, index: int, counts: Floats, label: str) -> ScoredMetric:
    own = counts[counts[:, 4 * index + _ASKED] > 0]
    n = int(own[:, 4 * index + _ASKED].sum())
    value = float(_category(own.sum(axis=0)[None], index)[0])
    if np.isnan(value):
        return undefined(spec, group, n, "no image was asked both its questions")
    interval = bootstrap_interval(own, lambda sums: _category(sums, index), label=f"{label}/{group}")
    return ScoredMetric(spec=spec, group=group, value=value, n=n, interval=interval)


def _total(
    spec: MetricSpec, categories: Sequence[str], names: Sequence[str], counts: Floats, pairs: Pairs, label: str
) -> ScoredMetric:
    places = [names.index(name) for name in categories if name in names]
    n = sum(sample.group in categories for sample, _ in pairs)
    absent = [name for name in categories if name not in names or not counts[:, 4 * names.index(name) + _PAIRS].any()]
    if absent:
        why = f"{len(absent)} of {len(categories)} categories were not asked in pairs: {', '.join(absent)}"
        return undefined(spec, None, n, why)

    def total(sums: Floats) -> Floats:
        return np.sum(np.stack([_category(sums, place) for place in places]), axis=0)

    own = counts[counts[:, [4 * place + _ASKED for place in places]].any(axis=1)]
    value = float(total(own.sum(axis=0)[None])[0])
    interval = bootstrap_interval(own, total, label=f"{label}/{spec.name}")
    return ScoredMetric(spec=spec, group=None, value=value, n=n, interval=interval)


def _shares(pairs: Pairs, group: str | None) -> list[ScoredMetric]:
    own = [item for item in pairs if group in (None, item[0].group)]
    samples = [sample for sample, _ in own]
    right = np.array([prediction.correct for _, prediction in own], dtype=np.float64)
    interval = mean_interval(right, [sample.image_id for sample in samples])
    accuracy = ScoredMetric(spec=ACCURACY, group=group, value=float(right.mean()), n=len(own), interval=interval)
    found = partners(samples)
    if not found:
        return [accuracy, undefined(ACCURACY_PLUS, group, 0, "no image was asked both its questions")]
    both = np.array([right[first] * right[second] for first, second in found])
    interval = mean_interval(both, [samples[first].image_id for first, _ in found])
    plus = ScoredMetric(spec=ACCURACY_PLUS, group=group, value=float(both.mean()), n=len(found), interval=interval)
    return [accuracy, plus]


def _sums(perception: str, cognition: str, readings: Sequence[Read]) -> dict[str, float]:
    """Returns the sums over the categories that were asked, as the programs form them, and every category."""
    right = [item.said == item.sample.answer for item in readings]
    scores = category_scores([item.sample for item in readings], right)
    found: dict[str, float] = {}
    for name, categories in ((perception, PERCEPTION), (cognition, COGNITION)):
        parts = {category: value for category, value in scores.items() if category in categories}
        if parts:
            found[name] = sum(parts.values())
            found |= {f"{name}[{category}]": value for category, value in parts.items()}
    return found


def _protocol(
    title: str, read: Callable[[str], str | None], perception: str, cognition: str, citation: str
) -> ScoringProtocol:
    return ScoringProtocol(
        title=title,
        read=by_text(read),
        aggregate=lambda readings: _sums(perception, cognition, readings),
        headline=perception,
        ours={perception: "mme_perception", cognition: "mme_cognition"},
        citation=citation,
        units={perception: "points", cognition: "points"},
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": _protocol(
        "yes or no within the first four characters of the text as it was stored, line breaks deleted",
        mme_official,
        "Perception",
        "Cognition",
        _MME,
    ),
    "llava": _protocol(
        "MME's calculation.py on the stripped text",
        lambda raw: mme_official(raw.strip()),
        "Perception",
        "Cognition",
        "LLaVA, docs/Evaluation.md: MME's own script",
    ),
    "lmms-eval": _protocol(
        "stripped, dots deleted, y and n count, else the first four characters",
        mme_without_dots,
        "mme_perception_score",
        "mme_cognition_score",
        "lmms-eval 0.7.3, tasks/mme/utils.py",
    ),
    "vlmevalkit": _protocol(
        "the one of yes and no that stands as a word; without a judge the rest is wrong",
        one_word,
        "perception",
        "reasoning",
        "VLMEvalKit, vlmeval/dataset/utils/yorn.py",
    ),
}
