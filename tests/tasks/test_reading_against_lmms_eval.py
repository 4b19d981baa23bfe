"""Our readings against lmms-eval's own functions on many made-up texts. Needs the extra `lmms`; loads single files."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovbench.tasks.reading_letters import letter_or_prefix, prefetched_letter, ranked_letter
from ovbench.tasks.reading_text import CONTRACTIONS, relaxed_match, vqa_normal
from ovbench.tasks.reading_yesno import mme_without_dots

OPTIONS = ("a red cat", "Two dogs", "the BUS", "4")
WORDS = (
    "A", "B", "C", "D", "E", "a", "b", "(A)", "(B).", "C.", "D:", ":B", "B,", "C)", "(D)", "[A]", "the", "answer is",
    "The answer is", "option", "I choose", "yes", "no", "Yes.", "cat", "a red cat", "two dogs", "the bus", "4", "N.O.",
    "none", "ten", "10%", "1,000", "3.5", ".5", "dont", "it's", "let's", "couldnt've", "somebody'd", "well-known",
    "end.", "x/y", "what?", "\n", "\t", "!", "\"q\"", "y", "n", "nope", "eyes", "Z", "'ow'sat", "é", "選", "选",
)  # fmt: skip


def _load(name: str) -> ModuleType:
    """Loads one file of lmms-eval, without the package, whose import takes seconds."""
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        pytest.skip("lmms-eval is not installed: pip install 'ovbench[lmms]'")
    path = Path(next(iter(found.submodule_search_locations))) / name
    spec = importlib.util.spec_from_file_location(f"lmms_{path.stem}_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(5)
    made = [
        draw.choice(["", " "]).join(draw.choice(WORDS) + draw.choice(["", "", " "]) for _ in range(draw.randint(1, 7)))
        for _ in range(4000)
    ]
    return [*WORDS, "", " ", *made]


def test_the_vqa_normaliser_is_evalais(texts: list[str]) -> None:
    theirs = _load("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    assert [text for text in texts if vqa_normal(text) != theirs(text)] == []


def test_the_contractions_are_evalais() -> None:
    theirs: dict[str, str] = _load("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor.CONTRACTIONS
    useful = {word: whole for word, whole in theirs.items() if word != whole and word == word.lower()}
    assert {word: CONTRACTIONS.get(word) for word in useful} == useful
    assert set(CONTRACTIONS) <= set(theirs)


def test_more_full_stops_than_the_original_takes_off_stay() -> None:
    theirs = _load("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    text = "a.b" * 40
    assert vqa_normal(text) == theirs(text)
    assert "." in vqa_normal(text)


def test_mme_is_read_as_lmms_eval_reads_it(texts: list[str]) -> None:
    theirs = pytest.importorskip("loguru", reason="lmms-eval needs it") and _load("tasks/mme/utils.py").parse_pred_ans
    assert [text for text in texts if (mme_without_dots(text) or "other") != theirs(text)] == []


def test_scienceqa_is_read_as_lmms_eval_reads_it(texts: list[str]) -> None:
    theirs = _load("tasks/scienceqa/utils.py").sqa_process_results
    for answer in range(4):
        doc = {"choices": list(OPTIONS), "answer": answer}
        for text in texts:
            ours = float(letter_or_prefix(text) == "ABCD"[answer])
            assert theirs(doc, [text])["exact_match"] == ours, text


def test_the_ranked_letter_is_lmms_evals(texts: list[str]) -> None:
    theirs = _load("tasks/_task_utils/mcq_extract.py").extract_mcq_answer
    assert [text for text in texts if (ranked_letter(text, 4) or "") != theirs(text, list("ABCD"))] == []


def test_the_prefetched_letter_is_lmms_evals(texts: list[str]) -> None:
    pytest.importorskip("pandas")
    theirs: Any = _load("tasks/mmbench/mmbench_evals.py").MMBench_Evaluator()
    item = dict(zip("ABCD", OPTIONS, strict=True))
    apart = [
        text
        for text in texts
        if (prefetched_letter(text, OPTIONS) or False) != theirs.prefetch_answer({**item, "prediction": text})
    ]
    assert apart == []


def test_charts_are_judged_as_lmms_eval_judges_them(texts: list[str]) -> None:
    theirs = _load("tasks/chartqa/utils.py").relaxed_correctness
    wanted = ("10", "10%", "0.1", "1,000", "1000", "0", "Yes.", "3.5", "nan", "-4")
    numbers = [f"{value}{sign}" for value in (10, 10.5, 10.51, 9.5, 0.1, 1000, 950, 0, -4.1) for sign in ("", "%")]
    for said in [*texts, *numbers]:
        for reference in wanted:
            assert relaxed_match(said, reference) == theirs(said, reference), (said, reference)
