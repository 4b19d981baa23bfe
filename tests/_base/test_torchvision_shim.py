"""The guard is tested with a torchvision made on the spot; torch itself is the real one, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovbench._base import torchvision_shim
from ovbench._base.torchvision_shim import allow_torchvision

# What torchvision's own start does: registers shape functions for its operators.
_INIT = """
import torch
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets.new_empty(0))
"""


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def mismatched(tmp_path: Path) -> Path:
    """A folder with a torchvision whose compiled library cannot load."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(_INIT)
    (package / "_C.so").write_bytes(b"not a library of this build")
    return tmp_path


def test_mismatched_torchvision_imports_after_the_guard_and_not_before(mismatched: Path) -> None:
    assert "torchvision::nms does not exist" in _run("import torchvision", mismatched).stderr
    guard = "from ovbench._base.torchvision_shim import allow_torchvision as allow\n"
    done = _run(guard + "assert allow() and allow()\nimport torchvision\nassert allow()", mismatched)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_installed_torchvision_imports_after_the_guard(tmp_path: Path) -> None:
    guard = "from ovbench._base.torchvision_shim import allow_torchvision as allow\nallow()\n"
    done = _run(guard + "import torchvision.transforms.v2, torchvision.models", tmp_path)
    assert done.returncode == 0, done.stderr


def test_absent_torchvision_needs_nothing_and_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_shim, "_library", None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of torch would raise
    assert allow_torchvision() is False


def test_torchvision_that_is_already_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_shim, "_library", None)
    monkeypatch.setitem(sys.modules, "torchvision", sys)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert allow_torchvision() is False


def test_operators_that_load_are_left_alone(mismatched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    loaded: list[str] = []
    monkeypatch.setattr(torchvision_shim, "_library", None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(mismatched)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert allow_torchvision() is False
    assert loaded == [str(mismatched / "torchvision" / "_C.so")]
    assert torchvision_shim._library is None
