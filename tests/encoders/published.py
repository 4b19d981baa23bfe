"""Golden models written as their publishers lay them out on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovbench.encoders.base import Encoder
from ovbench.encoders.registry import load_encoder

GOLDEN = Path(__file__).parents[1] / "golden"
NARROW = {"mean": [0.45] * 3, "std": [0.1] * 3}  # brings the goldens' noise, about -4.2 … 3.8, into [0, 1]
PIXEL_MODELS = {"ovis1": "openvision1_tiny", "ovis2": "openvision2_tiny"}


@dataclass(frozen=True, kw_only=True)
class GoldenModel:
    """A golden file: configuration, weights, inputs and what the reference program gave."""

    document: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def model_cfg(self, **vision: Any) -> dict[str, Any]:
        """Returns a copy of `model_cfg` with keys of `vision_cfg` replaced."""
        config = json.loads(json.dumps(self.document["model_cfg"]))
        config["vision_cfg"].update(vision)
        return config

    @property
    def pixels_01(self) -> Tensor:
        """The input pixels as pictures in [0, 1] that `NARROW` turns back into them."""
        return self.inputs["pixels"] * 0.1 + 0.45


def read_golden(name: str) -> GoldenModel:
    """Reads `tests/golden/<name>`."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    document = json.loads((GOLDEN / f"{name}.json").read_text())
    return GoldenModel(document=document, state=part("sd."), inputs=part("in."), outputs=part("out."))


def write_open_clip(
    folder: Path,
    model_cfg: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    preprocess_cfg: Any = None,
    safetensors: bool = False,
) -> Path:
    """Writes open_clip's hub layout: `open_clip_config.json`, and a pickled dictionary or a safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_cfg": model_cfg, **({} if preprocess_cfg is None else {"preprocess_cfg": preprocess_cfg})}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    if safetensors:
        save_file(dict(state), folder / "open_clip_model.safetensors")
    else:
        torch.save(dict(state), folder / "open_clip_pytorch_model.bin")
    return folder


def write_vae(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], *, safetensors: bool = True
) -> Path:
    """Writes the layout of a diffusers VAE: `config.json` and `diffusion_pytorch_model.*`."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    (folder / "config.json").write_text(
        json.dumps({"_class_name": "AutoencoderKL", "_diffusers_version": "0.30.0", **fields})
    )
    if safetensors:
        save_file(dict(state), folder / "diffusion_pytorch_model.safetensors")
    else:
        torch.save(dict(state), folder / "diffusion_pytorch_model.bin")
    return folder


def flux_like_vae(folder: Path) -> Path:
    """Writes the golden VAE, which has the layout of FLUX.1's."""
    golden = read_golden("openvision3_vae_tiny")
    return write_vae(folder, golden.document["vae_config"], golden.state)


def ovis2_loader(folder: Path) -> Callable[..., Encoder]:
    """Returns what loads the golden OpenVision 2 with keys of the configuration, weights or the spec changed."""
    golden = read_golden("openvision2_tiny")

    def load(
        *,
        query: str = "",
        drop: str = "",
        model: dict[str, Any] | None = None,
        state: dict[str, Tensor] | None = None,
        preprocess: Any = None,
        **vision: Any,
    ) -> Encoder:
        config = {**golden.model_cfg(**vision), **(model or {})}
        config["vision_cfg"].pop(drop, None)
        weights = {**golden.state, **(state or {})}
        return load_encoder(f"ovis2:{write_open_clip(folder, config, weights, preprocess_cfg=preprocess)}{query}")

    return load
