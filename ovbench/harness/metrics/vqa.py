"""VQA soft accuracy (arXiv 1505.00468; https://visualqa.org/evaluation.html), as TextVQA and VizWiz use it.

An answer is worth min(1, n / 3) of the n people who gave it, averaged over leaving out each of the ten in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ovbench._base.errors import DataError
from ovbench.harness.metrics.open_answers import references
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, by_text
from ovbench.tasks.base import Sample
from ovbench.tasks.reading_text import vqa_normal, vqa_normal_vlmevalkit

SCORER = "vqa-1"  # name and version; a change of any number raises the version


def soft_accuracy(said: str, answers: Sequence[str]) -> float:
    """Returns the mean over the answers of min(1, others that are equal / 3), in [0, 1].

    Args:
        said: Normalised.
        answers: Of all people, normalised, as often as each was given; ten in the benchmarks.

    Raises:
        DataError: There is one answer or none, which nobody else can have given.
    """
    if len(answers) < 2:
        raise DataError(
            f"VQA accuracy compares an answer with those of several people, found {len(answers)}",
            fix="name the column that holds all answers, or use the scorer of the kind (leave scorer out)",
        )
    same = sum(answer == said for answer in answers)
    worth = [min(1.0, (same - (answer == said)) / 3) for answer in answers]
    return sum(worth) / len(worth)


def grade_vqa(raw: str, sample: Sample) -> float:
    """Returns the soft accuracy of an answer, both sides normalised as EvalAI does."""
    return soft_accuracy(vqa_normal(raw), [vqa_normal(answer) for answer in references(sample)])


def _aggregate(normal: Callable[[str], str], name: str, readings: Sequence[Read]) -> dict[str, float]:
    worth = [
        soft_accuracy(item.said or "", [normal(answer) for answer in references(item.sample)]) for item in readings
    ]
    return {name: sum(worth) / len(worth)}


def _protocol(title: str, normal: Callable[[str], str], name: str, citation: str) -> ScoringProtocol:
    return ScoringProtocol(
        title=title,
        read=by_text(normal),
        aggregate=lambda readings: _aggregate(normal, name, readings),
        headline=name,
        ours={name: "accuracy"},
        citation=citation,
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": _protocol("EvalAI's normaliser", vqa_normal, "accuracy", "https://visualqa.org/evaluation.html"),
    "llava": _protocol(
        "EvalAI's normaliser on the stripped text",
        lambda raw: vqa_normal(raw.strip()),
        "accuracy",
        "LLaVA, llava/eval/m4c_evaluator.py",
    ),
    "lmms-eval": _protocol(
        "EvalAI's normaliser, the same code",
        vqa_normal,
        "exact_match",
        "lmms-eval 0.7.3, tasks/_task_utils/vqa_eval_metric.py",
    ),
    "vlmevalkit": _protocol(
        "as EvalAI, but commas, question marks and 's are not cut first",
        vqa_normal_vlmevalkit,
        "Overall",
        "VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py",
    ),
}
