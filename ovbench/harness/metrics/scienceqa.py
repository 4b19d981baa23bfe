"""ScienceQA, questions with an image (arXiv 2209.09513): accuracy of the letter as LLaVA's script reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ovbench.harness.metrics.base import ScoredMetric
from ovbench.harness.metrics.choice import score_choice
from ovbench.harness.metrics.protocol_base import Answered, ScoringProtocol, by_letter, share_right
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_letters import labelled_letter, letter_or_prefix, one_letter_word

SCORER = "scienceqa-1"  # name and version; a change of any number raises the version


def score_scienceqa(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "sqa"
) -> dict[str, ScoredMetric]:
    """Scores ScienceQA's answers: `accuracy`, `accuracy[group]`, `unparsed_rate` and so on, as `score_choice` does."""
    del label
    return score_choice(samples, predictions, groups=groups)


def _protocol(title: str, read: Callable[[Answered], str | None], name: str, citation: str) -> ScoringProtocol:
    return ScoringProtocol(
        title=title,
        read=read,
        aggregate=lambda readings: {name: share_right(readings)},
        headline=name,
        ours={name: "accuracy"},
        citation=citation,
        needs="letters",
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "llava": _protocol(
        "the bare letter, `B. …`, or exactly one `The answer is B.`",
        by_letter(lambda raw, options: labelled_letter(raw.strip(), len(options))),
        "IMG-Accuracy",
        "LLaVA, llava/eval/eval_science_qa.py",
    ),
    "lmms-eval": _protocol(
        "the bare letter in any case, or a capital before a dot",
        by_letter(lambda raw, _: letter_or_prefix(raw)),
        "exact_match",
        "lmms-eval 0.7.3, tasks/scienceqa/utils.py",
    ),
    "vlmevalkit": _protocol(
        "one letter among the words, or one option's text; without a judge the rest is wrong",
        by_letter(one_letter_word),
        "Overall",
        "VLMEvalKit, vlmeval/utils/matching_util.py",
    ),
}
