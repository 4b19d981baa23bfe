"""ChartQA (arXiv 2203.10244, section 5.1): relaxed accuracy, with its two traps as named options.

The published scripts take "1,000" for a text, which is then wrong against 1000, and "10%" for 0.1, which is wrong
against 10. The headline keeps both, so that it can be compared; the protocol `plain-numbers` reads both as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ovbench.harness.metrics.open_answers import references
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, grouped
from ovbench.tasks.base import Sample
from ovbench.tasks.reading_text import Commas, Percent, relaxed_match

SCORER = "chartqa-1"  # name and version; a change of any number raises the version
_PAPER = "ChartQA (arXiv 2203.10244), section 5.1"


def grade_chartqa(raw: str, sample: Sample, *, commas: Commas = "text", percent: Percent = "fraction") -> float:
    """Returns 1 where the stripped answer is within 5% of a reference, or equal to one but for the case; else 0."""
    said = raw.strip()
    return float(any(relaxed_match(said, answer, commas=commas, percent=percent) for answer in references(sample)))


def _protocol(
    title: str, name: str, citation: str, *, commas: Commas = "text", percent: Percent = "fraction"
) -> ScoringProtocol:
    def share(readings: Sequence[Read]) -> float:
        grades = [grade_chartqa(item.said or "", item.sample, commas=commas, percent=percent) for item in readings]
        return sum(grades) / len(grades)

    def aggregate(readings: Sequence[Read]) -> dict[str, float]:
        groups = {f"{name}[{group}]": share(items) for group, items in grouped(readings).items()}
        return {name: share(readings), **groups}

    return ScoringProtocol(
        title=title,
        read=lambda item: item.raw.strip(),
        aggregate=aggregate,
        headline=name,
        ours={name: "accuracy"},
        citation=citation,
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": _protocol("5% for numbers, else equality but for the case", "relaxed accuracy", _PAPER),
    "lmms-eval": _protocol(
        "the same; 1,000 is a text and 10% is 0.1", "relaxed_overall", "lmms-eval 0.7.3, tasks/chartqa/utils.py"
    ),
    "vlmevalkit": _protocol("the same", "Overall", "VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py"),
    "plain-numbers": _protocol(
        "1,000 is 1000 and 10% is 10 on both sides", "accuracy", "no publication", commas="number", percent="number"
    ),
}
