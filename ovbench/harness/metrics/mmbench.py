"""MMBench (arXiv 2307.06281): circular accuracy. A question is right where it is right under every rotation of options.

Rotations of one question share `index % 1000000`. No language model is asked: what cannot be read is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.metrics.base import MetricSpec, ScoredMetric, collect, count_spec, counted, group_order, pair
from ovbench.harness.metrics.choice import Pairs, score_choice
from ovbench.harness.metrics.interval import mean_interval
from ovbench.harness.metrics.protocol_base import Answered, Read, ScoringProtocol, by_letter, share_right
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_letters import one_letter_word, prefetched_letter, ranked_letter

SCORER = "mmbench-1"  # name and version; a change of any number raises the version
CIRCLE = 1_000_000
_PAPER = "MMBench (arXiv 2307.06281), section 4.1"

ACCURACY_CIRCULAR = MetricSpec(
    name="accuracy_circular",
    title="share of questions that are right under every rotation of their options",
    unit="fraction",
    higher_is_better=True,
    citation=_PAPER,
)
N_INCOMPLETE = count_spec(
    "n_incomplete", "questions that were asked under fewer rotations than they have options", _PAPER
)


def question_key(sample: Sample) -> int:
    """Returns what all rotations of a question share.

    Raises:
        DataError: The row carries no whole number `index`.
    """
    key = circle_of(sample.extra)
    if key is None:
        raise DataError(
            f"question '{sample.item_id}' has no index that tells its rotations ('{sample.extra.get('index', '')}')",
            fix="keep MMBench's column `index` in the task's extra columns",
        )
    return key


def circle_of(extra: Mapping[str, str]) -> int | None:
    """Returns what all rotations of a question share; None where a row's extra columns have no whole number `index`."""
    index = extra.get("index", "")
    return int(index) % CIRCLE if index.isdecimal() else None


def circles(samples: Sequence[Sample]) -> list[list[int]]:
    """Returns the places of each question's rotations, questions in the order of their first row."""
    found: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        found.setdefault(question_key(sample), []).append(place)
    return list(found.values())


def score_mmbench(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "mmbench"
) -> dict[str, ScoredMetric]:
    """Scores MMBench's answers.

    Args:
        samples: The rows, each with its `index`; grouped by ability.
        predictions: One answer per row, in any order.
        groups: Order of the groups.
        label: Not used: nothing is drawn.

    Returns:
        By key: `accuracy_circular` and `accuracy_circular[group]` over questions, `n_incomplete`, and over rows what
        `score_choice` gives.

    Raises:
        DataError: Answers do not match the questions, or a row has no index.
    """
    del label
    pairs = pair(samples, predictions)
    rows = score_choice(samples, predictions, groups=groups)
    found = circles([sample for sample, _ in pairs])
    names = group_order(samples, groups)
    scores = [_circular(pairs, found, None)]
    for name in names:
        own = [places for places in found if pairs[places[0]][0].group == name]
        scores += [_circular(pairs, own, name)] if own else []
    few = sum(len(places) < len(pairs[places[0]][0].options) for places in found)
    return collect([*scores, *rows.values(), counted(N_INCOMPLETE, few, len(found))])


def _circular(pairs: Pairs, found: Sequence[Sequence[int]], group: str | None) -> ScoredMetric:
    right = np.array([all(pairs[place][1].correct for place in places) for places in found], dtype=np.float64)
    interval = mean_interval(right, [pairs[places[0]][0].image_id for places in found])
    return ScoredMetric(spec=ACCURACY_CIRCULAR, group=group, value=float(right.mean()), n=len(found), interval=interval)


def _static(raw: str, options: tuple[str, ...]) -> str | None:
    four = options[:4]  # the script knows the columns A to D
    return prefetched_letter(raw, four) or ranked_letter(raw, len(four))


def _aggregate(name: str, readings: Sequence[Read]) -> dict[str, float]:
    right = [item.said is not None and item.said == item.sample.answer for item in readings]
    found = circles([item.sample for item in readings])
    circular = sum(all(right[place] for place in places) for places in found) / len(found)
    return {name: circular, "rows": share_right(readings)}


def _protocol(title: str, read: Callable[[Answered], str | None], name: str, citation: str) -> ScoringProtocol:
    return ScoringProtocol(
        title=title,
        read=read,
        aggregate=lambda readings: _aggregate(name, readings),
        headline=name,
        ours={name: "accuracy_circular", "rows": "accuracy"},
        citation=citation,
        needs="letters",
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "lmms-eval": _protocol(
        "mmbench_en_dev_static: letters and option texts by rule, else the letter that stands out most",
        by_letter(_static),
        "gpt_eval_score",
        "lmms-eval 0.7.3, tasks/mmbench/mmbench_evals.py",
    ),
    "vlmevalkit": _protocol(
        "exact matching: one letter among the words, or one option's text; without a judge the rest is wrong",
        by_letter(one_letter_word),
        "Overall",
        "VLMEvalKit, vlmeval/dataset/utils/multiple_choice.py",
    ),
}
