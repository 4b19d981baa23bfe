from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import write_json
from ovbench.harness.protocols import load_protocol
from ovbench.harness.steps import MANIFEST, describe_files
from ovbench.harness.understanding.checkpoint_folder import load_checkpoint
from ovbench.harness.understanding.export import export_checkpoint
from ovbench.harness.understanding.llava import build_llava, save_llava
from ovbench.harness.understanding.run_checkpoint import checkpoint_of_run
from ovbench.harness.understanding.section_config import parse_llava_section
from ovbench.results.store import read_record

RECORD = Path(__file__).parents[2] / "golden" / "records" / "v2.json"
KEY = "ab" * 32


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of the mini protocol, and its weights in the cache."""
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    content = json.loads(RECORD.read_text(encoding="utf-8"))
    content["protocol"]["content"] = load_protocol("mini").content_of("understanding")
    content["steps"].append({**content["steps"][0], "name": "llava_stage2", "key": KEY})
    write_json(folder / "record.json", content)
    record = read_record(folder / "record.json")
    entry = tmp_path / "cache" / "llava_stage2" / KEY
    model = build_llava(parse_llava_section(record.protocol.content["understanding"]), record.encoder.dim, seed=4)
    save_llava(entry / "llava.safetensors", model, with_language_model=True, metadata={})
    write_json(entry / MANIFEST, {"files": describe_files(entry)})
    return folder


def weights(folder: Path) -> Path:
    return next((folder.parents[1] / "cache" / "llava_stage2").glob("*/llava.safetensors"))


def test_run_leads_to_its_weights_encoder_and_tap(run_folder: Path) -> None:
    found = checkpoint_of_run(run_folder)
    record = read_record(run_folder / "record.json")
    assert found.weights == weights(run_folder)
    assert found.tap is not None
    assert (found.encoder, found.dim, found.tap.layer) == (record.encoder.spec, record.encoder.dim, "final")


def test_run_exports_to_a_folder_that_stands_on_its_own(run_folder: Path, tmp_path: Path) -> None:
    export_checkpoint(run_folder, tmp_path / "out", layout="ovbench")
    first = load_checkpoint(run_folder)
    shutil.rmtree(tmp_path / "cache")
    again = load_checkpoint(tmp_path / "out")
    assert (again.encoder, again.tap, again.model.form) == (first.encoder, first.tap, first.model.form)
    assert again.metadata == {"run": read_record(run_folder / "record.json").run_id}
    for (key, left), right in zip(first.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(left, right), key


def test_export_of_a_miniature_encoder_to_transformers_says_why_not(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds CLIP and SigLIP towers"):
        export_checkpoint(run_folder, tmp_path / "out", layout="transformers")


def test_weights_that_left_the_cache_are_missed_with_the_command_to_make_them(run_folder: Path) -> None:
    shutil.rmtree(weights(run_folder).parent)
    with pytest.raises(DataError, match="does not hold the weights of the run") as caught:
        checkpoint_of_run(run_folder)
    assert "ovbench run --encoder" in caught.value.fix


def test_damaged_weights_of_a_run_are_refused(run_folder: Path) -> None:
    path = weights(run_folder)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="are damaged: 'llava.safetensors' does not match"):
        checkpoint_of_run(run_folder)


def test_run_of_another_suite_has_no_language_model(run_folder: Path) -> None:
    path = run_folder / "record.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["steps"] = [step for step in content["steps"] if step["name"] != "llava_stage2"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match="has trained no language model"):
        checkpoint_of_run(run_folder)
