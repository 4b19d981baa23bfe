"""Golden files of RAE's stage 2 (tests/golden/*.json say how they were made): networks and tensors by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ovbench.harness.generation.config import read_stage2_config
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.network_weights import build_network
from tests.conftest import GOLDEN

DIT_DH = sorted(path.stem for path in GOLDEN.glob("dit_dh_*.json"))
LIGHTNING_DIT = sorted(path.stem for path in GOLDEN.glob("lightningdit_*.json"))
NETWORKS = [*DIT_DH, *LIGHTNING_DIT]
CFG_SCALE, AUTO_SCALE, INTERVAL = 1.75, 1.42, (0.1, 0.9)  # stated in the files' notes


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    document: dict[str, Any]
    tensors: dict[str, Tensor]

    def network(self, part: str = "", *, swiglu_multiple: int = 1) -> Stage2Network:
        """Returns the network of `part`, '' or 'guide', with the reference's weights."""
        key, head = ("config", "sd.") if not part else (f"{part}_config", f"sd_{part}.")
        config = read_stage2_config(self.document[key], where="golden")
        network = build_network(config, seed=0, swiglu_multiple=swiglu_multiple)
        network.load_state_dict(self.group(head), strict=True)
        return network.eval()

    def group(self, head: str) -> dict[str, Tensor]:
        """Returns the tensors whose names begin with `head`, without it."""
        return {key.removeprefix(head): value for key, value in self.tensors.items() if key.startswith(head)}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def golden(name: str) -> Golden:
    document = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return Golden(document=document, tensors=load_file(GOLDEN / f"{name}.safetensors"))


def close(actual: Tensor, expected: Tensor) -> None:
    """The tolerance of the network files."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


def perturbed(network: Stage2Network, *, std: float = 0.05) -> Stage2Network:
    """Adds noise to every weight: a new network predicts zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return network.eval()
