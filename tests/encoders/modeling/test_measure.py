"""Operations against formulas, the catalogue against the networks, speed and memory in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.encoders.base import Normalisation, PreprocessSpec
from ovbench.encoders.card import encoder_card, rows_of_card
from ovbench.encoders.modeling import measure as module
from ovbench.encoders.modeling.measure import count_flops, measure, sketch
from ovbench.encoders.modeling.tokens import Network, TokenEncoder
from ovbench.encoders.registry import families, load_encoder, parse_encoder


def vit_flops(*, width: int, depth: int, tokens: int, prefix: int, patch: int, channels: int = 3, mlp: int = 4) -> int:
    """Operations of a plain ViT, a multiply-accumulate being 2: patches, projections, attention, MLP."""
    n = tokens + prefix
    block = 2 * n * width * width * (4 + 2 * mlp) + 2 * 2 * n * n * width
    return 2 * tokens * width * channels * patch * patch + depth * block


def test_the_miniature_trunk_costs_what_the_formula_says() -> None:
    body = vit_flops(width=128, depth=4, tokens=64, prefix=1, patch=8)
    head = 2 * 128 * 128  # projection of the pooled output
    assert count_flops(load_encoder("clip/mini")).network == body + head


def test_a_clip_costs_what_the_formula_says_loaded_or_without_weights(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    loaded = count_flops(load_encoder(f"clip/b16:{tmp_path / 'clip'}"))
    assert loaded.network == vit_flops(width=64, depth=3, tokens=16, prefix=1, patch=16)
    assert loaded.frontend == 0
    _, drawn = sketch(parse_encoder("clip/b16"))
    assert drawn.network == vit_flops(width=768, depth=12, tokens=196, prefix=1, patch=16)


def test_a_vit_b16_costs_the_published_17_6_gmacs() -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'ovbench[offline]'")
    _, flops = sketch(parse_encoder("timm?model=vit_base_patch16_224"))
    assert flops.network / 2e9 == pytest.approx(17.6, abs=0.05)
    assert flops.network == vit_flops(width=768, depth=12, tokens=196, prefix=1, patch=16)


def test_torchs_fast_path_of_whole_layers_hides_no_operation() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 32, 8, 8)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(32, 2, 128, 0.0, batch_first=True, norm_first=True) for _ in range(2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.patches(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                h = block(h)
            return h[:, 0]

    net = Net()
    encoder = TokenEncoder(
        name="net",
        network=Network(model=net, blocks=tuple(net.blocks), run=net, dim=32, grid=(4, 4)),
        input=PreprocessSpec(size=(32, 32)),
        normalisation=Normalisation((0.5,) * 3, (0.5,) * 3),  # pyright: ignore[reportArgumentType]
    )
    assert torch.backends.mha.get_fastpath_enabled()
    assert count_flops(encoder).network == vit_flops(width=32, depth=2, tokens=16, prefix=0, patch=8)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_front_end_is_counted_apart() -> None:
    ovis3, vae = count_flops(load_encoder("ovis3/mini")), count_flops(load_encoder("vae/mini"))
    assert ovis3.frontend == vae.frontend > 0
    assert vae.network == 0


def test_operations_do_not_depend_on_the_type() -> None:
    whole, half = (count_flops(load_encoder("clip/mini", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert whole == half


RELEASED = [
    f"{key}/{each.name}" for key, family in families().items() for each in family.variants if each.origin == "hub"
]


@pytest.mark.parametrize("name", RELEASED)
def test_the_catalogue_says_what_the_network_is(name: str) -> None:
    spec = parse_encoder(name)
    variant = spec.variant
    info, flops = sketch(spec)
    assert (info.num_params, info.num_params_frontend) == (variant.num_params, variant.num_params_frontend)
    assert (info.dim, info.depth, info.num_prefix) == (variant.dim, variant.depth, variant.num_prefix)
    assert info.grid[0] * info.grid[1] == variant.num_tokens
    assert info.input.size == (variant.resolution_px, variant.resolution_px)
    assert (flops.network > 0) == (variant.num_params > 0)
    assert (flops.frontend > 0) == (variant.num_params_frontend > 0)


def test_a_sketch_takes_no_memory_and_leaves_torch_as_it_was() -> None:
    code = (
        "import resource, torch; from ovbench.encoders.registry import parse_encoder; "
        "from ovbench.encoders.modeling.measure import sketch; sketch(parse_encoder('ovis1/base-16-224')); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; state = torch.get_rng_state(); "
        "sketch(parse_encoder('ovis2/giant-14-224')); assert torch.equal(torch.get_rng_state(), state); "
        "assert torch.ones(1).device.type == 'cpu'; "
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # MiB; the weights would be 4052


# --- speed and memory ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return measure("ovis3/mini")


def test_speed_and_memory_come_with_what_they_were_taken_on(measured: dict[str, Any]) -> None:
    assert measured["device"].startswith("CPU (")
    assert (measured["dtype"], measured["torch"]) == ("float32", torch.__version__)
    assert measured["num_threads"] >= 1
    assert [each["batch_size"] for each in measured["passes"]] == [1, 32]
    assert all(each["num_rounds"] >= 3 and each["images_per_s"] > 0 for each in measured["passes"])


def test_a_larger_batch_takes_more_memory(measured: dict[str, Any]) -> None:
    one, many = (each["peak_memory_bytes"] for each in measured["passes"])
    assert 0 < one < many


def test_memory_is_not_that_of_the_process_that_asks() -> None:
    """A child begins with its parent's peak as its own `ru_maxrss`, which would hide all growth."""
    ballast = torch.ones(150_000_000)  # 600 MB, more than the encoder and torch take
    found = measure("clip/mini?weights=random:0")
    assert float(ballast[0]) == 1.0
    assert 2**20 < found["passes"][1]["peak_memory_bytes"] < 300 * 2**20


def test_an_encoder_that_cannot_be_loaded_there_is_an_error_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file|cannot be read|missing"):
        measure(f"clip/mini:{tmp_path / 'none.safetensors'}")
    with pytest.raises(ConfigError, match="unknown device"):
        measure("clip/mini", device="tpu")


def test_a_process_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dies = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(module.subprocess, "run", lambda *_args, **_options: dies)
    with pytest.raises(OvbenchError, match="ended with code -9") as caught:
        measure("clip/mini")
    assert "memory" in caught.value.fix


def test_the_card_says_that_random_weights_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake(text: str, **_options: str) -> dict[str, Any]:
        asked.append(text)
        passes = [{"batch_size": 1, "images_per_s": 2.5, "num_rounds": 5, "peak_memory_bytes": 3 * 2**20}]
        return {"device": "CPU (x, 2 cores)", "dtype": "float32", "num_threads": 2, "torch": "2", "memory": "m", "passes": passes}  # fmt: skip  # noqa: E501

    monkeypatch.setattr(module, "measure", fake)
    rows = {row["field"]: row["value"] for row in rows_of_card(encoder_card("clip/b16", measure=True))}
    assert asked == ["clip/b16?weights=random:0"]
    assert rows["measured with"].startswith("weights: random")
    assert rows["measured on"] == "CPU (x, 2 cores), 2 threads, float32, torch 2"
    assert rows["batch of 1"] == "2.5 images/s (median of 5); peak memory 3 MiB (m)"


@pytest.mark.gpu
def test_on_a_gpu_memory_is_what_torch_allocated() -> None:
    found = measure("clip/mini", device="cuda", dtype="bfloat16")
    assert found["device"] == torch.cuda.get_device_name(0)
    assert found["passes"][1]["peak_memory_bytes"] > found["passes"][0]["peak_memory_bytes"] > 800_000 * 2
