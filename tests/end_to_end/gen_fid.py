"""What the tests of `ovbench gen-fid` share: the command in this process, and small weights in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from ovbench.encoders.base import Encoder
from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.registry import load_encoder
from ovbench.harness import run as harness_run
from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import decoder_config
from ovbench.harness.generation.network_weights import build_network

SPEC = "clip/mini?size=32"  # what the mini protocols make of `clip`
NETWORK: dict[str, Any] = {
    "input_size": 4, "in_channels": 128, "hidden_size": [32, 128], "depth": [1, 1], "num_heads": [2, 2],
    "num_classes": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str
    records: list[dict[str, Any]]  # of the record folder, oldest first


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """Runs `ovbench WORDS` in this process, without workers, with the cache and the records of a folder."""
    from ovbench.cli import app

    run_all = harness_run.run_all

    def in_this_process(plan: Any, *, listener: Any, **_: Any) -> Any:
        return run_all(plan, in_process=True, listener=listener)

    monkeypatch.setenv("OVBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("OVBENCH_RUNS", str(folder / "runs"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with monkeypatch.context() as patch:
        patch.setattr(harness_run, "run_all", in_this_process)
        done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    paths = (folder / "runs").glob("*/record.json")
    records = sorted((json.loads(path.read_text()) for path in paths), key=lambda record: record["finished_utc"])
    return Result(code=done.exit_code, out=done.stdout, err=done.stderr, records=records)


def seeded_noise(module: nn.Module, seed: int, scale: float = 0.05) -> dict[str, Tensor]:
    """Adds noise to every weight and returns the state dict: nothing is 0 as at the start of a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return {key: value.clone() for key, value in module.state_dict().items()}


def network_state(seed: int, **changes: Any) -> dict[str, Tensor]:
    fields = {**NETWORK, **changes}
    pairs: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in fields.items()}
    return seeded_noise(build_network(DiTDHConfig(**pairs), seed=seed), seed)


def write_network(folder: Path, name: str, seed: int, **changes: Any) -> None:
    """Writes `name.pt`, a training checkpoint of RAE, and `name.yaml` with its constructor arguments."""
    state = network_state(seed, **changes)
    average = {f"module._orig_mod.{key}": value for key, value in state.items()}
    live = {f"module.{key}": torch.zeros_like(value) for key, value in state.items()}
    torch.save({"step": 3, "model": live, "ema": average}, folder / f"{name}.pt")
    save_file(state, folder / f"{name}.safetensors")
    (folder / f"{name}.yaml").write_text(json.dumps({**NETWORK, **changes}))


@dataclass(frozen=True)
class Parts:
    """Weights of no training: everything that a run can be given."""

    folder: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The options that make a run train nothing."""
        return (
            *("--decoder", str(self.folder / "model.pt"), "--stats", str(self.folder / "stat.pt")),
            *("--dit", str(self.folder / "dit.pt"), "--dit-network", str(self.folder / "dit.yaml")),
        )

    @property
    def guide(self) -> tuple[str, ...]:
        """A guide."""
        return ("--guide", str(self.folder / "guide.pt"), "--guide-network", str(self.folder / "guide.yaml"))

    def changed(self, **files: str | Path) -> tuple[str, ...]:
        """Returns `words` with other files."""
        words = list(self.words)
        for name, path in files.items():
            words[words.index(f"--{name.replace('_', '-')}") + 1] = str(path)
        return tuple(words)


def write_parts(folder: Path) -> Parts:
    """Writes decoder, statistics, network and guide as RAE publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = decoder_config("mini", latent_dim=128, num_patches=16, patch_px=8)
    decoder = seeded_noise(seeded(lambda: ViTDecoder(config), 0), 0)
    torch.save(decoder, folder / "model.pt")
    save_file(decoder, folder / "model.safetensors")
    whole = {f"module.decoder.{key}": value for key, value in decoder.items()} | {"module.encoder.w": torch.ones(2)}
    stale = {key: torch.zeros_like(value) for key, value in whole.items()}
    torch.save({"step": 1, "epoch": 0, "model": stale, "ema": whole, "disc": {"w": torch.ones(1)}}, folder / "ckpt.pt")
    variance = torch.rand(128, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    torch.save({"mean": None, "var": variance}, folder / "stat.pt")
    write_network(folder, "dit", 1)
    write_network(folder, "guide", 2, hidden_size=[16, 128])
    return Parts(folder)


def mini_encoder() -> Encoder:
    """The encoder of `SPEC`."""
    return load_encoder(SPEC)


Command = Callable[..., Result]
