from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.decoder_config import DinoConfig
from ovbench.harness.generation.dino import FrozenDino, load_dino
from tests.harness.generation.rae_data import pictures

TINY = DinoConfig(depth=2, width=24, num_heads=3, mlp_ratio=2.0, patch_px=16, input_px=64)
State = dict[str, Tensor]


def _state(seed: int = 0) -> State:
    """A backbone in Facebook's and timm's layout; no bias is 0."""
    generator = torch.Generator().manual_seed(seed)
    state = FrozenDino(TINY).state_dict()
    return {
        key: 0.2 * torch.randn(value.shape, generator=generator)
        for key, value in state.items()
        if key not in ("x_scale", "x_shift")
    }


def _transformers(state: State, prefix: str = "") -> State:
    """The same weights as `facebook/dino-vits8` names them."""
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
             "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}  # fmt: skip
    plain = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    found: State = {}
    for key, value in state.items():
        parts = key.split(".")
        if key in plain:
            found[plain[key]] = value
        elif parts[0] == "patch_embed":
            found[f"embeddings.patch_embeddings.projection.{parts[-1]}"] = value
        elif parts[0] == "norm":
            found[f"layernorm.{parts[-1]}"] = value
        elif "qkv" in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"encoder.layer.{parts[1]}.attention.attention.{name}.{parts[-1]}"] = part.contiguous()
        else:
            found[f"encoder.layer.{parts[1]}.{names['.'.join(parts[2:-1])]}.{parts[-1]}"] = value
    return {f"{prefix}{key}": value for key, value in found.items()}


LAYOUTS: dict[str, Callable[[State], State]] = {
    "facebook": dict,
    "timm with a head": lambda state: {**state, "head.weight": torch.ones(2, 24), "head.bias": torch.ones(2)},
    "transformers": _transformers,
    "transformers in a classifier": lambda state: {
        **_transformers(state, "vit."), "vit.pooler.dense.weight": torch.ones(24, 24), "classifier.bias": torch.ones(3),
    },
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_gives_the_same_backbone(tmp_path: Path, layout: str, suffix: str) -> None:
    state = _state()
    written = {key: value.contiguous() for key, value in LAYOUTS[layout](state).items()}
    path = tmp_path / f"dino{suffix}"
    torch.save(written, path) if suffix == ".pth" else save_file(written, path)
    loaded = load_dino(path, TINY).state_dict()
    for key, value in state.items():
        expected = value.clone()
        if key.endswith("qkv.bias"):
            expected[24:48] = 0.0
        assert torch.equal(loaded[key], expected)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_the_hub_is_read(tmp_path: Path, name: str) -> None:
    save_file(_state(), tmp_path / name) if name.endswith("safetensors") else torch.save(_state(), tmp_path / name)
    assert torch.equal(load_dino(tmp_path, TINY).cls_token, _state()["cls_token"])


def test_the_default_has_the_shapes_of_the_published_model() -> None:
    ours = {key: tuple(value.shape) for key, value in FrozenDino(DinoConfig()).state_dict().items()}
    timm = pytest.importorskip("timm", reason="needs timm, of the extra 'offline'")
    theirs = timm.create_model("vit_small_patch8_224.dino", pretrained=False).state_dict()
    assert ours == {**{key: tuple(value.shape) for key, value in theirs.items()}, "x_scale": (1, 3, 1, 1),
                    "x_shift": (1, 3, 1, 1)}  # fmt: skip


def test_transformers_names_are_those_of_its_library(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=64, patch_size=16,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6,
    )  # fmt: skip
    state = _transformers(_state())
    model = transformers.ViTModel.from_pretrained(None, config=config, state_dict=state, add_pooling_layer=False)
    save_file(state, tmp_path / "model.safetensors")
    dino, images = load_dino(tmp_path, TINY), pictures(2, 64)
    hidden = model(dino.x_scale * (2 * images - 1) + dino.x_shift, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(dino(2 * images - 1, (1,))[0], hidden[:, 1:].transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_it_is_frozen_and_gradients_reach_the_picture() -> None:
    dino = FrozenDino(TINY)
    dino.load_state_dict({**dino.state_dict(), **_state()})
    dino.train()
    assert not dino.training
    assert not any(parameter.requires_grad for parameter in dino.parameters())
    images = (2 * pictures(1) - 1).requires_grad_()
    dino(images, (0, 1))[1].square().mean().backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0.0


def test_taps_come_in_the_order_asked_for() -> None:
    dino = FrozenDino(TINY)
    dino.load_state_dict({**dino.state_dict(), **_state()})
    images = 2 * pictures(1) - 1
    first, last = dino(images, (0, 1))
    again = dino(images, (1, 0, 1))
    assert torch.equal(again[0], last)
    assert torch.equal(again[1], first)
    assert first.shape == (1, 24, 16)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "dino.pth")
    with pytest.raises(DataError, match="the weights do not fit the architecture"):
        load_dino(tmp_path / "dino.pth")
    state = _state()
    del state["blocks.1.attn.qkv.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(DataError, match=r"missing: blocks\.1\.attn\.qkv\.bias"):
        load_dino(tmp_path / "part.pth", TINY)


def test_a_block_without_its_keys_is_refused(tmp_path: Path) -> None:
    state = _transformers(_state())
    del state["encoder.layer.0.attention.attention.key.bias"]
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(DataError, match="a block has only query, value of query, key, value"):
        load_dino(tmp_path / "dino.pth", TINY)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file 'dino\.pth'"):
        load_dino(tmp_path / "dino.pth")


def test_pictures_that_are_not_rgb_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pictures must be \[B, 3, H, W\], got \[1, 1, 8, 8\]"):
        FrozenDino(TINY)(torch.zeros(1, 1, 8, 8), (0,))
