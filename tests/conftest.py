"""Shared fixtures: golden files, compared as text and rewritten only by `make golden`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ovbench._base.torchvision_shim import allow_torchvision

# Tests share the cores with each other and with the commands that they start; whoever wants more threads sets it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
allow_torchvision()  # tests import transformers, diffusers and timm by themselves, which import torchvision
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what the code gives now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with `tests/golden/<name>`; a missing file is a failure, never a pass."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"no golden file tests/golden/{name}: make it with `make golden` and review it"
        assert text == path.read_text(encoding="utf-8"), f"differs from tests/golden/{name}: see `make golden`"

    return compare
