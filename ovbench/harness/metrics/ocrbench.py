"""OCRBench (arXiv 2305.07895): right where a reference is part of the answer; of formulas without any blank.

The programs divide by 1000 whatever was asked; the headline divides by the number of questions that were scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ovbench.harness.metrics.open_answers import references
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, grouped
from ovbench.tasks.base import Sample
from ovbench.tasks.reading_text import formula_normal, ocr_normal, unfolded

SCORER = "ocrbench-1"  # name and version; a change of any number raises the version
FORMULAS = "Handwritten Mathematical Expression Recognition"  # the question type whose data set is HME100k
_ALL = 1000  # questions of the whole benchmark
_PAPER = "OCRBench (arXiv 2305.07895)"


def is_formula(sample: Sample) -> bool:
    """Whether a question is one of HME100k's, by its data set or its type."""
    return sample.extra.get("dataset") == "HME100k" or FORMULAS in (sample.group, sample.extra.get("question_type"))


def grade_ocrbench(raw: str, sample: Sample, *, normal: Callable[[str], str] = ocr_normal) -> float:
    """Returns 1 where a reference is part of the answer, both normalised, else 0."""
    normal = formula_normal if is_formula(sample) else normal
    said = normal(raw)
    return float(any(normal(answer) in said for answer in references(sample)))


def _folded(text: str) -> str:
    return ocr_normal(unfolded(text))


def _protocol(title: str, name: str, citation: str, normal: Callable[[str], str] = ocr_normal) -> ScoringProtocol:
    def right(readings: Sequence[Read]) -> float:
        return sum(grade_ocrbench(item.said or "", item.sample, normal=normal) for item in readings)

    def aggregate(readings: Sequence[Read]) -> dict[str, float]:
        groups = {f"right[{group}]": right(items) for group, items in grouped(readings).items()}
        return {name: right(readings) / _ALL, "right": right(readings), **groups}

    return ScoringProtocol(
        title=title,
        read=lambda item: item.raw.strip(),
        aggregate=aggregate,
        headline=name,
        ours={name: "accuracy"},
        citation=citation,
        units={"right": "count"},
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": _protocol("a reference is part of the answer; divided by 1000", "score / 1000", _PAPER),
    "lmms-eval": _protocol(
        "the same with full-width characters folded; divided by 1000",
        "ocrbench_accuracy",
        "lmms-eval 0.7.3, tasks/ocrbench/utils.py",
        _folded,
    ),
    "vlmevalkit": _protocol(
        "a reference is part of the answer; divided by 1000",
        "Final Score Norm",
        "VLMEvalKit, vlmeval/dataset/image_vqa.py",
    ),
}
