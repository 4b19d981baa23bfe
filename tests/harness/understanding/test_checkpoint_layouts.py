from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ovbench.harness.understanding.checkpoint_folder import LoadedLlava, load_checkpoint, save_checkpoint
from ovbench.harness.understanding.export import export_checkpoint
from tests.harness.understanding import llava_layouts as layouts

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def library() -> tuple[Any, Any]:
    return layouts.library_llava()


def logits(found: LoadedLlava) -> list[torch.Tensor]:
    encoder = found.load_encoder()
    return layouts.own_logits(found.model, encoder.llm_tokens(layouts.pictures(), found.tap))


def expect_equal(found: LoadedLlava, library: tuple[Any, Any]) -> None:
    wanted = layouts.library_logits(*library, layouts.pictures(), layouts.prompts_of(found.model))
    for left, right in zip(logits(found), wanted, strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() < TOLERANCE
        assert right.std() > 0.05  # not all alike, so that equality says something


def test_logits_equal_transformers_own_model(library: tuple[Any, Any], tmp_path: Path) -> None:
    found = load_checkpoint(layouts.write_library(tmp_path / "hf", *library))
    assert found.layout == "transformers"
    expect_equal(found, library)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_original_checkpoint_gives_the_same_logits(library: tuple[Any, Any], tmp_path: Path, kind: str) -> None:
    tower = layouts.write_tower(tmp_path / "tower")
    library[0].model.vision_tower.load_state_dict(transformers.CLIPVisionModel.from_pretrained(tower).state_dict())
    folder = layouts.write_original(tmp_path / "llava", *library, kind=kind, mm_vision_tower=str(tower))
    found = load_checkpoint(folder)
    assert (found.layout, found.aspect, found.model.max_length) == ("llava", "pad", 200)
    assert found.encoder is not None
    assert found.encoder.endswith(f":{tower.resolve()}")
    expect_equal(found, library)


def test_tower_inside_an_original_checkpoint_is_what_it_looks_through(library: tuple[Any, Any], tmp_path: Path) -> None:
    other = layouts.write_tower(tmp_path / "tower", seed=9)
    folder = layouts.write_original(tmp_path / "llava", *library, tower=True, mm_vision_tower=str(other))
    found = load_checkpoint(folder)
    assert found.encoder is not None
    assert "/towers/" in found.encoder
    expect_equal(found, library)


@pytest.mark.parametrize("layout", ["ovbench", "llava", "transformers"])
def test_every_layout_comes_back_as_it_was(library: tuple[Any, Any], tmp_path: Path, layout: Any) -> None:
    source = layouts.write_library(tmp_path / "hf", *library, do_pad=True)
    export_checkpoint(source, tmp_path / "out", layout=layout)
    first = load_checkpoint(source)
    fingerprint = first.load_encoder().fingerprint(first.tap)
    shutil.rmtree(tmp_path / "cache")  # from which the export must not live
    (tmp_path / "out").rename(tmp_path / "moved")
    again = load_checkpoint(tmp_path / "moved")
    assert again.layout == layout
    assert (again.tap, again.aspect, again.model.form) == (first.tap, first.aspect, first.model.form)
    assert again.load_encoder().fingerprint(again.tap) == fingerprint
    left, right = first.model.state_dict(), again.model.state_dict()
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key
    expect_equal(again, library)


@pytest.mark.parametrize("siglip", [False, True])
def test_export_loads_into_transformers_to_the_last_key(tmp_path: Path, siglip: bool) -> None:
    library = layouts.library_llava(siglip=siglip)
    source = layouts.write_library(tmp_path / "hf", *library)
    export_checkpoint(source, tmp_path / "out", layout="transformers")
    kind: Any = transformers.LlavaForConditionalGeneration
    model, report = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, value in library[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("layout", ["ovbench", "llava", "transformers"])
def test_export_keeps_the_precision_of_the_weights(tmp_path: Path, layout: Any) -> None:
    model, words = layouts.library_llava()
    source = layouts.write_library(tmp_path / "hf", model.bfloat16(), words)
    export_checkpoint(source, tmp_path / "out", layout=layout)
    again = load_checkpoint(tmp_path / "out", dtype="stored")
    assert again.model.language_model.dtype == torch.bfloat16
    first = load_checkpoint(source, dtype="stored").model.state_dict()
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, first[key]), key


def test_export_of_a_plain_vocabulary_grows_it_without_touching_old_logits(tmp_path: Path) -> None:
    words = layouts.tokenizer()
    tower, text = layouts.write_tower(tmp_path / "tower"), layouts.write_llama(tmp_path / "text")
    stage1 = layouts.write_original(
        tmp_path / "stage1", *layouts.library_llava(), kind="projector", mm_vision_tower=str(tower)
    )
    export_checkpoint(stage1, tmp_path / "out", layout="transformers", language_model=str(text))
    first, again = (
        load_checkpoint(stage1, language_model=str(text), template="v1"),
        load_checkpoint(tmp_path / "out", template="v1"),
    )
    assert len(words) < again.model.language_model.get_input_embeddings().weight.shape[0] == 320
    assert again.model.tokenizer.convert_tokens_to_ids("<image>") == len(words)
    for left, right in zip(logits(first), logits(again), strict=True):
        assert (left - right[:, : left.shape[1]]).abs().max() < TOLERANCE
        assert (right[:, left.shape[1] :] < right.max(-1, keepdim=True).values).all()


@pytest.mark.parametrize("do_pad", [False, True])
def test_exported_processor_makes_the_same_ids_and_nearly_the_same_pixels(
    library: tuple[Any, Any], tmp_path: Path, do_pad: bool
) -> None:
    import numpy as np
    from PIL import Image

    from ovbench.harness.understanding.conversation import tokenize

    source = layouts.write_library(tmp_path / "hf", *library, do_pad=do_pad)
    export_checkpoint(source, tmp_path / "out", layout="transformers")
    found = load_checkpoint(tmp_path / "out")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    ramp = np.linspace(0, 255, 60 * 40 * 3).astype(np.uint8).reshape(40, 60, 3)
    picture = Image.fromarray(ramp)
    content = [{"type": "image"}, {"type": "text", "text": layouts.QUESTIONS[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    prompt = layouts.prompts_of(found.model)[0]
    assert text == prompt
    made = processor(images=picture, text=text, return_tensors="pt")
    mark = found.model.tokenizer.convert_tokens_to_ids("<image>")
    ours = tokenize(found.model.tokenizer, prompt, has_image=True)
    assert ours.image_at is not None
    spliced = [*ours.ids[: ours.image_at], *[mark] * layouts.NUM_VISUAL, *ours.ids[ours.image_at :]]
    assert made["input_ids"][0].tolist() == spliced
    own = found.load_encoder().prepare(picture)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (layouts.MEAN, layouts.STD))
    # The library resizes tensors and ovbench with PIL, which differ by up to a grey level or two.
    assert ((made["pixel_values"][0] * std + mean) - own).abs().max() < 2.5 / 255


def test_projector_alone_comes_with_a_named_language_model(tmp_path: Path) -> None:
    tower, text = layouts.write_tower(tmp_path / "tower"), layouts.write_llama(tmp_path / "text")
    folder = layouts.write_original(
        tmp_path / "stage1",
        *layouts.library_llava(),
        kind="projector",
        mm_vision_tower=str(tower),
        _name_or_path=str(text),
    )
    found = load_checkpoint(folder)
    assert found.model.form.name == "plain"
    first = load_checkpoint(folder, template="v1")
    named = load_checkpoint(folder / "mm_projector.bin", language_model=str(text), template="v1")
    for left, right in zip(logits(first), logits(named), strict=True):
        assert torch.equal(left, right)


def test_language_model_that_was_not_trained_is_named_and_not_written(tmp_path: Path) -> None:
    tower, text = layouts.write_tower(tmp_path / "tower"), layouts.write_llama(tmp_path / "text")
    stage1 = layouts.write_original(
        tmp_path / "stage1", *layouts.library_llava(), kind="projector", mm_vision_tower=str(tower)
    )
    found = load_checkpoint(stage1, language_model=str(text), template="v1")
    assert found.encoder is not None
    save_checkpoint(
        tmp_path / "own",
        found.model,
        encoder=found.encoder,
        tap=found.tap,
        language_model=str(text),
        metadata={"step": 3},
    )
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "mm_projector.safetensors",
        "ovbench_llava.json",
    ]
    again = load_checkpoint(tmp_path / "own")
    assert again.metadata == {"step": 3}
    for left, right in zip(logits(found), logits(again), strict=True):
        assert torch.equal(left, right)
