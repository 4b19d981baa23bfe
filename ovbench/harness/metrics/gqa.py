"""GQA (arXiv 1902.09506): accuracy of the answer as LLaVA hands it to GQA's eval.py, which asks for equality."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ovbench.harness.metrics.open_answers import references
from ovbench.harness.metrics.protocol_base import Read, ScoringProtocol, by_text
from ovbench.tasks.base import Sample
from ovbench.tasks.reading_text import lowered, without_final_dots, without_punctuation

SCORER = "gqa-1"  # name and version; a change of any number raises the version


def grade_gqa(raw: str, sample: Sample) -> float:
    """Returns 1 where the answer in lower case without final dots is the reference, else 0."""
    return float(without_final_dots(raw) in references(sample))


def _protocol(
    title: str, said: Callable[[str], str], wanted: Callable[[str], str], name: str, citation: str
) -> ScoringProtocol:
    def right(item: Read) -> bool:
        return (item.said or "") in {wanted(answer) for answer in references(item.sample)}

    return ScoringProtocol(
        title=title,
        read=by_text(said),
        aggregate=lambda readings: {name: sum(map(right, readings)) / len(readings)},
        headline=name,
        ours={name: "accuracy"},
        citation=citation,
    )


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": _protocol("the text as it was stored is the reference", str, str, "accuracy", "GQA's eval.py"),
    "llava": _protocol(
        "lower case without final dots, then equality",
        lambda raw: without_final_dots(raw.strip()),
        str,
        "accuracy",
        "LLaVA, scripts/convert_gqa_for_eval.py",
    ),
    "lmms-eval": _protocol(
        "equality but for case and punctuation",
        lambda raw: without_punctuation(raw.strip()),
        without_punctuation,
        "exact_match",
        "lmms-eval 0.7.3, tasks/gqa/gqa.yaml",
    ),
    "vlmevalkit": _protocol(
        "equality but for case and outer blanks",
        lowered,
        lowered,
        "Overall",
        "VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py",
    ),
}
