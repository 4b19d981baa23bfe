from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.understanding.checkpoint_folder import load_checkpoint, save_checkpoint
from ovbench.harness.understanding.export import export_checkpoint
from tests.harness.understanding import llava_layouts as layouts


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def library() -> tuple[Any, Any]:
    return layouts.library_llava()


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    return layouts.write_tower(tmp_path / "tower")


def refusal(kind: type[OvbenchError], call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "missing: model.layers.1.mlp.up_proj.weight"),
        ({"model.layers.1.mlp.extra": torch.ones(2)}, "unexpected: model.layers.1.mlp.extra"),
        ({"lm_head.weight": torch.ones(7, layouts.WIDTH)}, "wrong shape: lm_head.weight [7, 32] for [320, 32]"),
        ({"model.norm.weight": torch.full((layouts.WIDTH,), torch.nan)}, "NaN or infinite values: model.norm.weight"),
        ({"model.mm_projector.2.bias": None}, "of no known kind: 0.bias, 0.weight, 2.weight"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_tensor_of_an_original_checkpoint_is_named(
    library: tuple[Any, Any], tower: Path, tmp_path: Path, change: Any, text: str
) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library, change=change, mm_vision_tower=str(tower))
    assert text in refusal(DataError, load_checkpoint, folder)


def test_old_rotary_buffers_are_known_and_not_needed(library: tuple[Any, Any], tower: Path, tmp_path: Path) -> None:
    change = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = layouts.write_original(tmp_path / "llava", *library, change=change, mm_vision_tower=str(tower))
    assert load_checkpoint(folder).layout == "llava"


def test_projector_of_another_language_model_names_both_widths(tower: Path, tmp_path: Path) -> None:
    text = layouts.write_llama(tmp_path / "text", hidden_size=48)
    stage1 = layouts.write_original(
        tmp_path / "stage1", *layouts.library_llava(), kind="projector", mm_vision_tower=str(tower)
    )
    said = refusal(DataError, load_checkpoint, stage1, language_model=str(text))
    assert "writes embeddings of width 32, and the language model's have 48" in said
    assert "--llm" in said


def test_projector_of_another_encoder_names_both_widths(library: tuple[Any, Any], tmp_path: Path) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library)
    found = load_checkpoint(folder, encoder="clip/mini")
    assert "reads visual tokens of width 24, and those of 'clip/mini' have 128" in refusal(
        DataError, found.load_encoder
    )


def test_unknown_tower_must_be_named_by_whoever_looks_through_it(
    library: tuple[Any, Any], tower: Path, tmp_path: Path
) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library, mm_vision_tower="somebody/own-tower")
    found = load_checkpoint(folder)
    assert found.encoder is None
    assert "does not say which encoder" in refusal(ConfigError, found.load_encoder)
    named = load_checkpoint(folder, encoder=f"clip/b16:{tower}")
    assert named.load_encoder().info.dim == layouts.DIM


def test_published_towers_are_known_by_name(library: tuple[Any, Any], tmp_path: Path) -> None:
    found = load_checkpoint(layouts.write_original(tmp_path / "llava", *library))
    assert (found.encoder, found.tap and found.tap.layer, found.aspect) == ("clip/l14-336", -2, "pad")


def test_encoder_of_other_weights_than_the_tower_inside_is_refused(
    library: tuple[Any, Any], tower: Path, tmp_path: Path
) -> None:
    folder = layouts.write_library(tmp_path / "hf", *library)
    said = refusal(DataError, load_checkpoint, folder, encoder=f"clip/b16:{tower}")
    assert "a vision tower of other weights" in said
    assert "leave --encoder out" in said
    assert "missing in the checkpoint" in refusal(DataError, load_checkpoint, folder, encoder="clip/mini")


def test_second_language_model_is_refused(library: tuple[Any, Any], tmp_path: Path) -> None:
    folder = layouts.write_library(tmp_path / "hf", *library)
    said = refusal(ConfigError, load_checkpoint, folder, language_model="somewhere/else")
    assert "holds its language model, and another was named" in said


def test_projector_alone_asks_for_its_language_model(tower: Path, tmp_path: Path) -> None:
    folder = layouts.write_original(
        tmp_path / "stage1", *layouts.library_llava(), kind="projector", mm_vision_tower=str(tower)
    )
    assert "name the folder or hub id: --llm" in refusal(ConfigError, load_checkpoint, folder)


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_pickle_with_code_is_refused_and_not_run(library: tuple[Any, Any], tmp_path: Path) -> None:
    folder = layouts.write_original(tmp_path / "stage1", *library, kind="projector")
    torch.save({"model.mm_projector.0.weight": _Evil()}, folder / "mm_projector.bin")
    assert "holds pickled code" in refusal(DataError, load_checkpoint, folder)


def test_missing_shard_is_named(library: tuple[Any, Any], tmp_path: Path) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin" in refusal(DataError, load_checkpoint, folder)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"image_aspect_ratio": "anyres"}, "'image_aspect_ratio': 'anyres'"),
        ({"mm_use_im_start_end": True}, "'mm_use_im_start_end'"),
        ({"mm_resampler_type": "perceiver"}, "a resampler ('perceiver')"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "'spatial_unpad'"),
    ],
)
def test_other_recipes_than_llava_15_are_refused_by_their_setting(
    library: tuple[Any, Any], tmp_path: Path, fields: Any, text: str
) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library, **fields)
    assert text in refusal(ConfigError, load_checkpoint, folder)


def test_unmerged_lora_is_refused(library: tuple[Any, Any], tmp_path: Path) -> None:
    folder = layouts.write_original(tmp_path / "llava", *library, kind="projector")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "merge it first" in refusal(ConfigError, load_checkpoint, folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"projector_hidden_act": "relu"}, "'relu'"),
        ({"vision_feature_layer": [-2, -1]}, "[-2, -1]"),
    ],
)
def test_other_forms_of_transformers_llava_are_refused(
    library: tuple[Any, Any], tmp_path: Path, change: Any, text: str
) -> None:
    folder = layouts.write_library(tmp_path / "hf", *library)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    assert text in refusal(ConfigError, load_checkpoint, folder)


def test_dropping_a_patch_of_a_tower_without_class_token_is_refused(tmp_path: Path) -> None:
    model, words = layouts.library_llava(siglip=True)
    model.config.vision_feature_select_strategy = "default"
    folder = layouts.write_library(tmp_path / "hf", model, words)
    assert "a patch would be lost" in refusal(ConfigError, load_checkpoint, folder)


def test_folder_of_no_layout_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    assert "no checkpoint of a known layout (notes.txt)" in refusal(DataError, load_checkpoint, tmp_path)
    assert "it is no folder" in refusal(DataError, load_checkpoint, tmp_path / "absent")


def test_damaged_own_checkpoint_is_refused(library: tuple[Any, Any], tmp_path: Path) -> None:
    found = load_checkpoint(layouts.write_library(tmp_path / "hf", *library))
    assert found.encoder is not None
    save_checkpoint(tmp_path / "own", found.model, encoder=found.encoder)
    path = tmp_path / "own" / "ovbench_llava.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "format": 99}), encoding="utf-8")
    assert "has format 99" in refusal(DataError, load_checkpoint, tmp_path / "own")
    path.write_text(json.dumps({"format": 1}), encoding="utf-8")
    assert "is not of a checkpoint" in refusal(DataError, load_checkpoint, tmp_path / "own")
    path.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "own" / "mm_projector.safetensors").write_bytes(b"\x80\x00cut off")
    assert "is damaged" in refusal(DataError, load_checkpoint, tmp_path / "own")


def test_nothing_is_written_over_a_folder_that_holds_something(library: tuple[Any, Any], tmp_path: Path) -> None:
    source = layouts.write_library(tmp_path / "hf", *library)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work", encoding="utf-8")
    for layout in ("ovbench", "llava", "transformers"):
        said = refusal(ConfigError, export_checkpoint, source, tmp_path / "full", layout=layout)
        assert "exists and is not empty" in said
    assert (tmp_path / "full" / "thesis.tex").is_file()


def test_older_checkpoint_of_the_own_layout_is_replaced_whole(library: tuple[Any, Any], tmp_path: Path) -> None:
    found = load_checkpoint(layouts.write_library(tmp_path / "hf", *library))
    assert found.encoder is not None
    for step in (1, 2):
        save_checkpoint(tmp_path / "own", found.model, encoder=found.encoder, metadata={"step": step})
    assert load_checkpoint(tmp_path / "own").metadata == {"step": 2}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("layer", ["final", "-2"])
def test_transformers_layout_refuses_what_it_cannot_hold(layer: str, library: tuple[Any, Any], tmp_path: Path) -> None:
    from ovbench.encoders.base import Tap
    from ovbench.encoders.registry import load_encoder
    from ovbench.harness.understanding.projector import build_projector
    from ovbench.harness.understanding.transformers_export import write_transformers

    model = load_checkpoint(layouts.write_library(tmp_path / "hf", *library)).model
    model.projector = build_projector("mlp2x_gelu", 128, layouts.WIDTH, seed=0)
    tap = Tap(layer="final" if layer == "final" else int(layer))
    said = refusal(
        ConfigError,
        write_transformers,
        tmp_path / "out",
        model,
        encoder=load_encoder("clip/mini"),
        spec="clip/mini",
        tap=tap,
    )
    assert "holds CLIP and SigLIP towers of that library, and 'clip/mini' is a" in said
    assert not (tmp_path / "out").exists()


def test_unknown_layout_of_an_export_is_refused(tmp_path: Path) -> None:
    assert "unknown layout 'hf'" in refusal(ConfigError, export_checkpoint, tmp_path, tmp_path / "out", layout="hf")
