from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.results.foreign.read import read_foreign
from ovbench.results.foreign.sheet import ForeignSheet
from ovbench.results.formats import to_console
from ovbench.results.formats.to_rows import to_rows

# As lmms-eval 0.7.3 writes it.
LMMS: dict[str, Any] = {
    "results": {
        "pope": {
            "alias": "pope", "pope_accuracy,none": 0.8733, "pope_accuracy_stderr,none": "N/A",
            "pope_f1_score,none": 0.86, "pope_f1_score_stderr,none": 0.004, "submission,none": None, " ": " ",
        }
    },
    "group_subtasks": {"pope": []},
    "configs": {"pope": {"task": "pope"}},
    "versions": {"pope": 0.0},
    "n-shot": {"pope": 0},
    "higher_is_better": {"pope": {"pope_accuracy": True, "pope_f1_score": True}},
    "n-samples": {"pope": {"original": 9000, "effective": 100}},
    "config": {"model": "llava_hf", "model_args": "pretrained=llava-hf/llava-1.5-7b-hf", "limit": 100.0},
    "git_hash": "abc1234",
    "date": "20260120_101530",
}  # fmt: skip


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def values(sheet: ForeignSheet) -> dict[str, float | None]:
    return {score.metric: score.value for score in sheet.scores}


def test_scores_of_lmms_eval_are_read_with_error_direction_and_count(tmp_path: Path) -> None:
    sheet = read_foreign(written(tmp_path, "20260120_results.json", LMMS))
    accuracy, f1, submission = sheet.scores
    assert (accuracy.task, accuracy.metric, accuracy.value, accuracy.error) == ("pope", "pope_accuracy", 0.8733, None)
    assert (f1.error, f1.n, f1.higher_is_better) == (0.004, 100, True)
    assert (submission.value, submission.reason) == (None, "the file says None")
    assert sheet.model == "llava_hf pretrained=llava-hf/llava-1.5-7b-hf"


def test_foreign_rows_are_marked_and_name_their_file(tmp_path: Path) -> None:
    path = written(tmp_path, "20260120_results.json", LMMS)
    sheet = read_foreign(path)
    text = to_console.render([sheet], width=200, color=False)
    assert text.startswith(f"FOREIGN · lmms-eval · {path}")
    assert "not comparable with ours unless its settings are" in " ".join(text.split())
    assert "pope_accuracy ↑" in text
    rows = to_rows([sheet])
    assert {(row["kind"], row["source"], row["mark"]) for row in rows} == {("foreign", str(path), None)}


def test_items_of_lmms_eval_give_means_that_are_called_so(tmp_path: Path) -> None:
    rows = [{"doc_id": index, "doc_hash": "h", "target": "yes", "exact_match": float(index < 3)} for index in range(4)]
    path = written(tmp_path, "20260120_samples_ovb_pope.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    sheet = read_foreign(path)
    (score,) = sheet.scores
    assert (score.task, score.metric, score.value, score.n) == ("ovb_pope", "mean of exact_match", 0.75, 4)
    assert "means over the 4 items of the file, not the program's own aggregate" in sheet.notes


def test_torch_fidelity_is_read_from_json_and_from_text(tmp_path: Path) -> None:
    found = {
        "inception_score_mean": 11.2, "inception_score_std": 0.3, "frechet_inception_distance": 18.1,
        "kernel_inception_distance_mean": 0.004, "kernel_inception_distance_std": 0.0005,
    }  # fmt: skip
    one = read_foreign(written(tmp_path, "fidelity.json", found))
    text = "Creating feature extractor\n" + "\n".join(f"{key}: {value:.7g}" for key, value in found.items())
    two = read_foreign(written(tmp_path, "fidelity.txt", text))
    assert one.program == two.program == "torch-fidelity"
    assert values(one) == values(two) == {"IS": 11.2, "FID": 18.1, "KID": 0.004}
    assert {score.metric: score.error for score in one.scores} == {"IS": 0.3, "FID": None, "KID": 0.0005}


@pytest.mark.parametrize("content", ['{"fid": 12.25}', "compute FID\nFID: 12.25\n", "clean-fid = 12.25"])
def test_clean_fid_is_read_from_json_and_from_text(tmp_path: Path, content: str) -> None:
    sheet = read_foreign(written(tmp_path, "clean.txt", content))
    assert sheet.program == "clean-fid"
    assert values(sheet) == {"FID": 12.25}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", '{"results": {"pope"', "'a.json' is damaged"),
        ("a.json", '{"loss": 1.0}', "holds no score that is known here"),
        ("a.txt", "nothing here", "holds no score that is known here"),
        ("a.json", '{"frechet_inception_distance": NaN}', "'frechet_inception_distance' is nan"),
        ("a.txt", "FID: nan", "'fid' is nan"),
        ("a_samples_x.jsonl", '{"doc_id": 0}\n{"x": 1}\n', "item 2 is not a sample of lmms-eval"),
        ("a_samples_x.jsonl", '{"doc_id": 0, "acc": NaN}\n', "'acc' of item 1 is nan"),
        ("a_samples_x.jsonl", '{"doc_id": 0', "line 1 is not JSON"),
    ],
)
def test_a_foreign_file_that_cannot_be_believed_is_refused(tmp_path: Path, name: str, content: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        read_foreign(written(tmp_path, name, content))
    assert what in caught.value.what


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file 'x\.json'"):
        read_foreign(tmp_path / "x.json")
