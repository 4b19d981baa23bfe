from __future__ import annotations

from collections.abc import Sequence

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.metrics.mmbench import PROTOCOLS, score_mmbench
from ovbench.harness.metrics.protocol_base import Answered
from ovbench.tasks.answers import option_at
from ovbench.tasks.base import Prediction, Sample

OPTIONS = ("cat", "dog", "bus")


def _rows(texts: Sequence[str], *, first: int = 241, group: str = "") -> tuple[list[Sample], list[Prediction]]:
    """One question under as many rotations as there are texts; `cat` is right."""
    samples: list[Sample] = []
    predictions: list[Prediction] = []
    for turn, raw in enumerate(texts):
        options = OPTIONS[turn:] + OPTIONS[:turn]
        index = first + turn * 1_000_000
        sample = Sample(
            item_id=f"{index}",
            image_id=f"picture {first}",
            prompt="",
            question="?",
            options=options,
            answer="cat",
            group=group,
            extra={"index": str(index)},
        )
        said = option_at(raw, options)
        samples.append(sample)
        predictions.append(
            Prediction(
                item_id=sample.item_id, raw=raw, parsed=said, option_scores=None, chosen=said, correct=said == "cat"
            )
        )
    return samples, predictions


def _both(*parts: tuple[list[Sample], list[Prediction]]) -> tuple[list[Sample], list[Prediction]]:
    return [sample for samples, _ in parts for sample in samples], [item for _, items in parts for item in items]


def test_a_question_is_right_where_every_rotation_is() -> None:
    scores = score_mmbench(*_both(_rows("ACB"), _rows("ACA", first=7), _rows("ACB", first=9), _rows("BBB", first=11)))
    assert (scores["accuracy_circular"].value, scores["accuracy_circular"].n) == (0.5, 4)
    assert (scores["accuracy"].value, scores["accuracy"].n) == (pytest.approx(9 / 12), 12)
    assert scores["n_incomplete"].value == 0


def test_groups_count_questions() -> None:
    scores = score_mmbench(*_both(_rows("ACB", group="ocr"), _rows("AAA", first=7, group="logic")))
    assert [scores[f"accuracy_circular[{name}]"].value for name in ("ocr", "logic")] == [1.0, 0.0]


def test_missing_rotations_are_counted() -> None:
    scores = score_mmbench(*_both(_rows("AC"), _rows("ACB", first=7)))
    assert (scores["n_incomplete"].value, scores["n_incomplete"].n) == (1, 2)


def test_a_row_without_an_index_is_an_error() -> None:
    samples, predictions = _rows("A")
    samples[0].extra.clear()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no index that tells its rotations"):
        score_mmbench(samples, predictions)


@pytest.mark.parametrize(("name", "value"), [("lmms-eval", 1.0), ("vlmevalkit", 0.0)])
def test_each_program_reads_sentences_its_own_way(name: str, value: float) -> None:
    samples, _ = _rows(["x"] * 3)
    texts = ["The best option is (A)", "C: cat", "I pick B over any other one that I was shown, really"]
    answers = [Answered(sample=sample, raw=raw) for sample, raw in zip(samples, texts, strict=True)]
    assert PROTOCOLS[name].score(answers)[PROTOCOLS[name].headline] == value
