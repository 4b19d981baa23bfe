"""Tensor files: the same contents are the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.harness.checkpoint import save_tensors


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {name: name * 3 for name in ("config", "recipe", "vae", "a", "b", "ä")}
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(1, dtype=torch.bfloat16)}
    contents = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, tensors, metadata)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    found, header = read_tensors(tmp_path / "0.safetensors")
    assert header == metadata
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
