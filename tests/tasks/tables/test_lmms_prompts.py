"""The prompts of the benchmarks that are asked as lmms-eval asks them equal those of lmms-eval, on the same tables.

Its task modules are loaded by path, since its package of tasks takes seconds to import. Not here: textvqa-ocr and
mmbench-dev-static, which are asked as LLaVA-1.5 asks them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from tests.tasks.benchmark_files import MAKERS, write_benchmark

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (the extra lmms)")
pytestmark = pytest.mark.slow  # two of its modules import the library datasets and all of lmms-eval
SHORT = {"pre_prompt": "", "post_prompt": "\nAnswer the question using a single word or phrase."}
LETTER = {
    "format": "default",
    "pre_prompt": "",
    "post_prompt": "\nAnswer with the option's letter from the given choices directly.",
}
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
# task → folder of lmms-eval's task, its function, and what its YAML passes to it
THEIRS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "pope": ("pope", "pope_doc_to_text", SHORT),
    "seedbench": ("seedbench", "seed_doc_to_text", None),
    "mme": ("mme", "mme_doc_to_text", SHORT),
    "gqa": ("gqa", "gqa_doc_to_text", SHORT),
    "scienceqa-img": ("scienceqa", "sqa_doc_to_text", LETTER),
    "textvqa": ("textvqa", "textvqa_doc_to_text", {**SHORT, "ocr": False}),
    "vizwiz-val": (
        "vizwiz_vqa",
        "vizwiz_vqa_doc_to_text",
        {"pre_prompt": "", "post_prompt": UNANSWERABLE + SHORT["post_prompt"]},
    ),
    "chartqa": (
        "chartqa",
        "chartqa_doc_to_text",
        {"pre_prompt": "", "post_prompt": "\nAnswer the question with a single word."},
    ),
    "ocrbench": ("ocrbench", "ocrbench_doc_to_text", {"pre_prompt": "", "post_prompt": ""}),
}


def _module(name: str) -> ModuleType:
    package = importlib.util.find_spec("lmms_eval")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "tasks" / name / "utils.py"
    spec = importlib.util.spec_from_file_location(f"lmms_{name}_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", THEIRS)
def test_prompts_are_those_of_lmms_eval(name: str, folder: Path) -> None:
    data = load_data(load_task(name), data_dir=write_benchmark(name, folder))
    folder_name, function, options = THEIRS[name]
    ask = getattr(_module(folder_name), function)
    rows = [row for row in MAKERS[name](4)[0].rows if row.get("data_type", "image") == "image"]
    theirs = [ask(row) if options is None else ask(row, options) for row in rows]
    assert [sample.prompt for sample in data.samples] == theirs
