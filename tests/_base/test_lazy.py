from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovbench._base import lazy
from ovbench._base.errors import DependencyError
from ovbench._base.lazy import require


def test_installed_module_is_returned() -> None:
    assert require("json") is json


def test_absent_package_names_the_line_to_run() -> None:
    with pytest.raises(DependencyError) as caught:
        require("ovbench_absent.plots", extra="report", purpose="ovbench report")
    assert str(caught.value) == (
        "error: the package 'ovbench_absent' is not installed\n"
        "  where: ovbench report\n"
        "  fix:   run: python -m pip install 'ovbench[report]'"
    )


def test_absent_core_package_needs_no_extra() -> None:
    with pytest.raises(DependencyError) as caught:
        require("ovbench_absent")
    assert caught.value.fix == "run: python -m pip install 'ovbench'"


def test_fault_inside_an_installed_package_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_inside.py").write_text("import ovbench_absent_too\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="ovbench_absent_too"):
        require("broken_inside")


def test_missing_part_of_an_installed_package_is_not_called_not_installed() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.absent"):
        require("json.absent")


@pytest.mark.parametrize("module", ["transformers", "diffusers", "torchvision.ops", "torchmetrics.functional"])
def test_packages_that_import_torchvision_come_behind_the_guard(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr(lazy, "allow_torchvision", lambda: happened.append("guard"))
    monkeypatch.setattr(lazy.importlib, "import_module", lambda name: happened.append(name))
    lazy.require(module)
    assert happened == ["guard", module]


def test_other_packages_do_not_load_torch_for_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "allow_torchvision", lambda: pytest.fail("the guard was called"))
    lazy.require("json")
