"""`ovbench check` passes for every family: tiny weights in the published layouts, and drawn by `weights=random`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovbench._base.lazy import require
from ovbench.encoders.registry import built_in_families, families, load_encoder
from ovbench.testing import check_encoder
from tests.encoders.layouts_hf import LAYOUTS, write_layout
from tests.encoders.published import flux_like_vae, read_golden, write_open_clip

EMBEDDED = [f"{f.key}/{v.name}" for f in families().values() for v in f.variants if v.origin == "embedded"]
HF = {LAYOUTS[name].spec: name for name in ("clip two towers", "siglip two towers", "siglip2 tower, transformers 5",
      "dinov2", "dinov2 with registers", "mae alone")}  # fmt: skip


def _transformers(spec: str) -> Callable[[Path], str]:
    return lambda folder: f"{spec}:{write_layout(folder, HF[spec])}"


def _openvision(generation: int) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        golden = read_golden(f"openvision{generation}_tiny")
        write_open_clip(folder / "vit", golden.model_cfg(), golden.state)
        if generation == 3:
            return f"ovis3/base-256:{folder / 'vit'}?vae={flux_like_vae(folder / 'vae')}"
        return f"ovis{generation}:{folder / 'vit'}"

    return write


def _timm(folder: Path) -> str:
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, "reg_tokens": 3}
    model = require("timm").create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    document = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": arguments}
    document["pretrained_cfg"] = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    document["pretrained_cfg"]["interpolation"] = "bicubic"
    (folder / "config.json").write_text(json.dumps(document))
    save_file(model.state_dict(), folder / "model.safetensors")
    return f"timm:{folder}"


def _open_clip(folder: Path) -> str:
    config = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    tower = require("open_clip.model")._build_vision_tower(24, dict(config), quick_gelu=True)
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}
    model_cfg = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": config, "text_cfg": text}
    return f"open_clip:{write_open_clip(folder / 'tower', model_cfg, state)}"


SPECS: dict[str, Callable[[Path], str]] = {
    **{spec: _transformers(spec) for spec in HF},
    "ovis1": _openvision(1),
    "ovis2": _openvision(2),
    "ovis3": _openvision(3),
    "vae/flux": lambda folder: f"vae/flux:{flux_like_vae(folder)}?size=64",
    "timm": _timm,
    "open_clip": _open_clip,
    "hf": lambda folder: f"hf:{write_layout(folder, 'dinov2 with registers')}",
}


def test_every_built_in_family_is_checked_below() -> None:
    checked = {spec.partition("/")[0] for spec in SPECS} | {spec.partition("/")[0] for spec in EMBEDDED}
    elsewhere = {"random", "efficientnet"}  # test_testing.py and test_efficientnet.py
    assert checked | elsewhere == set(built_in_families())


@pytest.mark.parametrize("spec", SPECS)
def test_tiny_weights_in_the_published_layout_fulfil_the_contract(tmp_path: Path, spec: str) -> None:
    torch.manual_seed(0)
    report = check_encoder(SPECS[spec](tmp_path))
    report.raise_if_failed()
    looked = {result.name for result in report.results if result.outcome == "passed"}
    assert looked >= {"features", "guard", "normalisation", "determinism", "batch", "frozen", "train", "resize"}
    assert looked >= {"locality", "locality-latents", "latents", "fingerprint", "fingerprint-builds", "random-weights"}


@pytest.mark.parametrize("spec", SPECS)
def test_seeded_weights_of_the_same_folder_fulfil_the_contract(tmp_path: Path, spec: str) -> None:
    text = SPECS[spec](tmp_path)
    check_encoder(f"{text}{'&' if '?' in text else '?'}weights=random:0").raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("spec", ["clip/b16", "dinov2/base-reg", "ovis3"])
def test_lower_precision_fulfils_the_contract(tmp_path: Path, spec: str, dtype: str) -> None:
    torch.manual_seed(0)
    check_encoder(SPECS[spec](tmp_path), dtype="bfloat16" if dtype == "bfloat16" else "float16").raise_if_failed()


ORDERS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {  # of latents [B, C, h, w]
    "transposed": (lambda z: z.transpose(2, 3), "swapped"),
    "rows reversed": (lambda z: z.flip(2), "the rows of the grid are in reverse order"),
    "columns reversed": (lambda z: z.flip(3), "the columns of the grid are in reverse order"),
    "shifted": (lambda z: z.flatten(2).roll(1, dims=2).reshape(z.shape), "shifted by 1"),
    "shifted back": (lambda z: z.flatten(2).roll(-1, dims=2).reshape(z.shape), "shifted by -1"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", ["vae/flux", "vae/mini", "ovis3", "efficientnet"])
def test_another_order_of_the_grid_does_not_pass_behind_convolutions(tmp_path: Path, spec: str, order: str) -> None:
    torch.manual_seed(0)
    text = SPECS[spec](tmp_path) if spec in SPECS else spec + ("?size=160" if spec == "efficientnet" else "")
    encoder = load_encoder(text)
    change, says = ORDERS[order]
    straight = encoder.latents
    encoder.latents = lambda *args, **options: change(straight(*args, **options)).contiguous()  # type: ignore[method-assign]
    result = check_encoder(encoder)["locality-latents"]
    assert result.outcome == "failed"
    assert says in result.detail


@pytest.mark.parametrize("spec", EMBEDDED)
def test_embedded_weights_fulfil_the_contract(spec: str) -> None:
    check_encoder(spec).raise_if_failed()
