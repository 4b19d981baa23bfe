"""Tiny random models in the folder layouts of the hub, and what the transformers library itself makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)
_TOWER: Mapping[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_TEXT: Mapping[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
    "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_DINO: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56,
    "patch_size": 14,
}  # fmt: skip
_MAE: Mapping[str, Any] = {
    **_TOWER, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}  # fmt: skip


def _position_ids(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds the integer buffers that OpenAI's published files hold."""
    count = len(state["vision_model.embeddings.position_embedding.weight"])
    return {
        **state,
        "vision_model.embeddings.position_ids": torch.arange(count)[None],
        "text_model.embeddings.position_ids": torch.arange(6)[None],
    }


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the keys of a tower as transformers 4 saved it."""
    return {f"vision_model.{key}": value for key, value in state.items()}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A published kind of folder."""

    spec: str  # encoder that reads it
    model: str  # class that is saved
    config: Callable[..., Any]  # changes of the tower's fields → configuration
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict  # what the library saves → what is on the hub
    final_norm: str = ""  # module that makes `last_hidden_state` of h[L]
    num_prefix: int = 0
    px: int = 32
    weights: str = "safetensors"


def _clip(**changes: Any) -> Any:
    return transformers.CLIPConfig(
        text_config={**_TEXT, "projection_dim": 8}, vision_config={**_TOWER, **changes}, projection_dim=8
    )


def _siglip(**changes: Any) -> Any:
    return transformers.SiglipConfig(text_config=dict(_TEXT), vision_config={**_TOWER, **changes})


def _of(name: str, fields: Mapping[str, Any]) -> Callable[..., Any]:
    return lambda **changes: getattr(transformers, name)(**{**fields, **changes})


LAYOUTS: Mapping[str, Layout] = {
    "clip two towers": Layout(
        spec="clip/b16", model="CLIPModel", config=_clip, rename=_position_ids, num_prefix=1, weights="bin"
    ),
    "clip tower, transformers 4": Layout(
        spec="clip/b16",
        model="CLIPVisionModel",
        config=_of("CLIPVisionConfig", _TOWER),
        rename=_prefixed,
        num_prefix=1,
    ),
    "clip tower, transformers 5": Layout(
        spec="clip/l14-336", model="CLIPVisionModel", config=_of("CLIPVisionConfig", _TOWER), num_prefix=1
    ),
    "siglip two towers": Layout(
        spec="siglip/base-256", model="SiglipModel", config=_siglip, final_norm="post_layernorm"
    ),
    "siglip tower, transformers 4": Layout(
        spec="siglip/so400m-384",
        model="SiglipVisionModel",
        config=_of("SiglipVisionConfig", _TOWER),
        rename=_prefixed,
        final_norm="post_layernorm",
    ),
    "siglip2 tower, transformers 5": Layout(
        spec="siglip2/base-256",
        model="SiglipVisionModel",
        config=_of("SiglipVisionConfig", _TOWER),
        final_norm="post_layernorm",
    ),
    "dinov2": Layout(
        spec="dinov2/base",
        model="Dinov2Model",
        config=_of("Dinov2Config", _DINO),
        final_norm="layernorm",
        num_prefix=1,
        px=56,
    ),
    "dinov2 with registers": Layout(
        spec="dinov2/base-reg",
        model="Dinov2WithRegistersModel",
        config=_of("Dinov2WithRegistersConfig", _DINO),
        final_norm="layernorm",
        num_prefix=5,
        px=56,
    ),
    "mae with decoder": Layout(
        spec="mae/base-256",
        model="ViTMAEForPreTraining",
        config=_of("ViTMAEConfig", _MAE),
        final_norm="layernorm",
        num_prefix=1,
        weights="bin",
    ),
    "mae alone": Layout(
        spec="mae/base-224", model="ViTMAEModel", config=_of("ViTMAEConfig", _MAE), final_norm="layernorm", num_prefix=1
    ),
}
ONE_OF_EACH = ("clip two towers", "siglip two towers", "dinov2", "dinov2 with registers", "mae with decoder")


def processor(px: int, **changes: Any) -> dict[str, Any]:
    """Returns the content of a preprocessor_config.json that squashes to a square."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "ViTImageProcessor",
        "image_std": list(STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": px, "width": px},
        **changes,
    }


def randomise(model: nn.Module, seed: int) -> None:
    """Moves every parameter off its initial value, so that no norm, bias or scale is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def save_model(folder: Path, model: Any, px: int, *, rename: Callable[..., Any] = dict, weights: str = "") -> Path:
    """Writes config.json, weights and preprocessor_config.json."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = rename(load_file(path))
    path.unlink()
    write_weights(folder, state, weights or "safetensors")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor(px)), encoding="utf-8")
    return folder


def write_weights(folder: Path, state: Mapping[str, Tensor], kind: str = "safetensors") -> None:
    """Writes the weights file of a folder."""
    if kind == "bin":
        torch.save(dict(state), folder / "pytorch_model.bin")
    else:
        save_file(
            {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"}
        )


def write_layout(
    folder: Path, name: str, *, seed: int = 0, weights: str = "", changes: Mapping[str, Any] | None = None
) -> Path:
    """Writes a tiny random model in one of `LAYOUTS`."""
    layout = LAYOUTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, layout.model)(layout.config(**(changes or {})))
    randomise(model, seed)
    return save_model(folder, model, layout.px, rename=layout.rename, weights=weights or layout.weights)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def library_tower(folder: Path, name: str) -> Any:
    """Returns the image tower as the library itself loads it."""
    kind = getattr(transformers, LAYOUTS[name].model)
    model = kind.from_pretrained(folder).eval()
    for part in ("vision_model", "vit"):
        model = getattr(model, part, model)
    if model.config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
    return model


@torch.no_grad()
def library_run(tower: Any, images_01: Tensor, *, mean: Any = MEAN, std: Any = STD, **options: Any) -> Any:
    """Returns the library's own output, hidden states included, on pictures in [0, 1]."""
    x = (images_01 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    if tower.config.model_type == "vit_mae":
        count = (x.shape[2] // tower.config.patch_size) * (x.shape[3] // tower.config.patch_size)
        options["noise"] = torch.arange(count).float().expand(len(x), count)
    return tower(pixel_values=x, output_hidden_states=True, **options)


def pictures(px: int, count: int = 2, width: int = 0) -> Tensor:
    """Returns random pictures in [0, 1]."""
    return torch.rand(count, 3, px, width or px, generator=torch.Generator().manual_seed(7))
