"""What the tests of RAE's first stage share: golden files, and small encoders behind the real contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ovbench.encoders.base import Normalisation, PreprocessSpec
from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder
from ovbench.encoders.preprocess import IMAGENET
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DecoderConfig
from tests.conftest import GOLDEN


@dataclass(frozen=True, kw_only=True)
class Golden:
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, head: str) -> dict[str, Tensor]:
        return {key.removeprefix(head): value for key, value in self.tensors.items() if key.startswith(head)}


def golden_names(kind: str) -> list[str]:
    """All golden files of a kind; more of them may be put beside the first."""
    names = sorted(path.stem for path in GOLDEN.glob(f"{kind}_*.json"))
    assert names
    return names


def golden(name: str) -> Golden:
    document = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return Golden(config=document["config"], tensors=load_file(GOLDEN / f"{name}.safetensors"))


def patch_encoder(
    *,
    dim: int = 6,
    patch: int = 4,
    size: int = 16,
    normalisation: Normalisation = IMAGENET,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    seed: int = 0,
    width: int | None = None,
    device: str = "cpu",
) -> TokenEncoder:
    """One patch convolution as an encoder: tokens → LayerNorm without affine, eps 1e-6, as the golden files have it."""
    convolution = seeded(lambda: nn.Conv2d(3, dim, patch, stride=patch), seed)
    if weight is not None and bias is not None:
        convolution.load_state_dict({"weight": weight, "bias": bias})

    def run(x: Tensor) -> Tensor:
        return convolution(x).flatten(2).transpose(1, 2)

    wide = size if width is None else width
    network = Network(model=convolution, blocks=(), run=run, dim=dim, grid=(size // patch, wide // patch), eps=1e-6)
    spec = PreprocessSpec(size=(size, wide))
    return TokenEncoder(name="stand-in/patch", network=network, input=spec, normalisation=normalisation, device=device)


def small_decoder(seed: int = 0, **changes: Any) -> ViTDecoder:
    """A decoder of a few thousand weights, none of which is 0, in eval mode."""
    fields = {"latent_dim": 6, "num_patches": 16, "patch_px": 4, "width": 16, "depth": 2, "num_heads": 2}
    config = DecoderConfig(**{**fields, "mlp_width": 24, **changes})
    decoder = seeded(lambda: ViTDecoder(config), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def pictures(count: int, size: int = 16, seed: int = 0) -> Tensor:
    """Smooth pictures in [0, 1], [count, 3, size, size], each of them another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_golden(actual: Tensor, expected: Tensor) -> None:
    """Compares at the tolerance that the golden files state."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)
