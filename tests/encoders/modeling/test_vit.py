"""OpenVision's ViT against the reference program's outputs, and the traps of its checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.vit import (
    OpenVisionViT,
    ViTConfig,
    attend,
    load_strict,
    read_open_clip_config,
    sincos_positions,
    strip_visual_prefix,
)

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = ("openvision1_tiny", "openvision2_tiny", "openvision3_tiny")
VARIANTS = {
    "": {},
    "alt_ln_first.": {"final_ln_after_pool": False},
    "alt_tok.": {"pool_type": "tok", "final_ln_after_pool": False},
}


def golden_model(name: str, **changes: object) -> tuple[OpenVisionViT, torch.Tensor, dict[str, torch.Tensor]]:
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    config = replace(read_open_clip_config(document, where=name), **changes)
    state = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    model = OpenVisionViT(config)
    load_strict(model, strip_visual_prefix(state), where=name)
    (image,) = (value for key, value in tensors.items() if key.startswith("in."))
    return model.eval(), image, {key[4:]: value for key, value in tensors.items() if key.startswith("out.")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_outputs_equal_the_reference(name: str, variant: str) -> None:
    model, image, expected = golden_model(name, **VARIANTS[variant])
    out = model(image)
    torch.testing.assert_close(out.tokens, expected[f"{variant}tokens"], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(out.pooled, expected[f"{variant}pooled"], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_block_equals_the_reference(name: str) -> None:
    model, image, expected = golden_model(name)
    hidden = model(image, keep_hidden=True).hidden
    torch.testing.assert_close(hidden[0], expected["embed"], atol=5e-5, rtol=1e-5)
    for number in range(model.config.layers):
        torch.testing.assert_close(hidden[number + 1], expected[f"block.{number}"], atol=5e-5, rtol=1e-5)


def test_a_missing_final_ln_after_pool_is_an_error() -> None:
    document = json.loads((GOLDEN / "openvision3_tiny.json").read_text())
    del document["model_cfg"]["vision_cfg"]["final_ln_after_pool"]
    with pytest.raises(DataError, match="final_ln_after_pool"):
        read_open_clip_config(document, where="file")


def test_an_unknown_key_of_vision_cfg_is_refused_with_a_suggestion() -> None:
    document = json.loads((GOLDEN / "openvision3_tiny.json").read_text())
    document["model_cfg"]["vision_cfg"]["patchsize"] = 2
    with pytest.raises(DataError, match="patchsize") as caught:
        read_open_clip_config(document, where="file")
    assert "patch_size" in caught.value.fix


def test_a_wrong_input_size_is_an_error_and_the_table_is_not_resized() -> None:
    model, image, _ = golden_model("openvision3_tiny")
    with pytest.raises(ConfigError, match="16 x 16"):
        model(image[..., :14, :14])


def test_positions_pick_rows_of_the_stored_table() -> None:
    model, image, _ = golden_model("openvision3_tiny")
    with torch.no_grad():
        model.positional_embedding.normal_()
        every = torch.arange(64).expand(2, -1)
        torch.testing.assert_close(model(image, positions=every).tokens, model(image).tokens)
        assert not torch.allclose(model(image, positions=every.flip(1)).tokens, model(image).tokens)


def test_missing_unexpected_and_misshapen_weights_are_named() -> None:
    model, _, _ = golden_model("openvision3_tiny")
    state = dict(model.state_dict())
    state["stray"] = state.pop("ln_post.bias")
    state["proj"] = state["proj"].T
    with pytest.raises(DataError) as caught:
        load_strict(model, state, where="file")
    for word in ("missing: ln_post.bias", "unexpected: stray", "wrong shape: proj"):
        assert word in caught.value.what


def test_nan_weights_are_refused() -> None:
    model, _, _ = golden_model("openvision3_tiny")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["proj"][0, 0] = float("nan")
    with pytest.raises(DataError, match=r"NaN.*proj"):
        load_strict(model, state, where="file")


def test_position_table_is_x_before_y_in_raster_order() -> None:
    table = sincos_positions(8, 3)
    assert table.shape == (9, 8)
    torch.testing.assert_close(table[1, 0], torch.tensor(1.0).sin())  # second column of the first row: x = 1
    torch.testing.assert_close(table[3, 4], torch.tensor(1.0).sin())  # first column of the second row: y = 1
    assert table[1, 4] == 0


def test_plain_attention_equals_the_fused_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(low.float(), attend(q, k, v, mask), atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    "fields", [{"patch_size": 0}, {"image_size": 8}, {"head_width": 60}, {"pool_type": "max"}, {"width": 66}]
)
def test_impossible_architectures_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ViTConfig(**{"image_size": 32, "patch_size": 16, **fields})  # pyright: ignore[reportArgumentType]
