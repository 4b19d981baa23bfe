"""What a model said to one question → what counts as its answer, and whether that is right."""

from __future__ import annotations

from ovbench.tasks.answers import parse_answer
from ovbench.tasks.base import Prediction, Sample, TaskSpec


def judge(spec: TaskSpec, sample: Sample, raw: str, scores: tuple[float, ...]) -> Prediction:
    """Reads an answer as the task says: the likeliest option, or what its parser finds in the greedy answer."""
    parsed = parse_answer(spec.parser, raw, sample.options)
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
