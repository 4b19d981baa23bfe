"""Published benchmarks without a network: made-up data, a cache and a configuration of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from tests.tasks.benchmark_files import MAKERS, MadeTable, write_table


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; no test of this folder may open a connection or touch the user's own folders."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a connection was opened")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder."""
    return tmp_path / "data"


Load = Callable[..., TaskData]


@pytest.fixture
def load(folder: Path) -> Load:
    """Writes a benchmark, spoilt by the test, and loads it."""

    def load_spoilt(
        name: str, spoil: Callable[[MadeTable], None] | None = None, *, table: int = 0, num_shards: int = 1
    ) -> TaskData:
        tables = MAKERS[name](4)
        if spoil is not None:
            spoil(tables[table])
        for each in tables:
            write_table(each, folder, num_shards=num_shards)
        return load_data(load_task(name), data_dir=folder)

    return load_spoilt
