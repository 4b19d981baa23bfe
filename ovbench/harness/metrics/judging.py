"""What a model said to one question → what counts as its answer, and whether that is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ovbench.harness.metrics.base import HALF
from ovbench.harness.metrics.chartqa import grade_chartqa
from ovbench.harness.metrics.gqa import grade_gqa
from ovbench.harness.metrics.ocrbench import grade_ocrbench
from ovbench.harness.metrics.open_answers import grade_equal
from ovbench.harness.metrics.vqa import grade_vqa
from ovbench.tasks.answers import parse_answer
from ovbench.tasks.base import Prediction, Sample, TaskSpec

# Scorer of an open task → (stripped text, question) → score in [0, 1].
GRADES: Mapping[str, Callable[[str, Sample], float]] = {
    "gqa": grade_gqa,
    "vqa": grade_vqa,
    "chartqa": grade_chartqa,
    "ocrbench": grade_ocrbench,
}


def judge(spec: TaskSpec, sample: Sample, raw: str, scores: tuple[float, ...]) -> Prediction:
    """Reads an answer as the task says: the likeliest option, or what its parser finds in the stripped greedy answer.

    An open answer also gets the score that its benchmark gives it. It counts as right from 0.5 on: of ten people two
    must have said it for VQA accuracy, and the other benchmarks know 0 and 1 alone.

    Raises:
        DataError: The question lacks the reference answers that its scorer compares.
    """
    text = raw.strip()
    parsed = parse_answer(spec.parser, text, sample.options)
    if spec.kind == "open":
        grade = GRADES.get(spec.scorer)
        score = grade(text, sample) if grade else grade_equal(spec.parser, text, sample)
        return Prediction(
            item_id=sample.item_id,
            raw=raw,
            parsed=parsed,
            option_scores=None,
            chosen=parsed,
            correct=score >= HALF,
            score=score,
        )
    ranked = sample.options[scores.index(max(scores))] if scores else None
    chosen = ranked if spec.scoring == "likelihood" else parsed
    return Prediction(
        item_id=sample.item_id,
        raw=raw,
        parsed=parsed,
        option_scores=scores or None,
        chosen=chosen,
        correct=chosen is not None and chosen == sample.answer,
    )
