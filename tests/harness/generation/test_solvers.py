"""Grids and solvers against the reference's, on its tiny network and on equations with a known answer."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DependencyError
from ovbench.harness.generation.flow_config import SamplingConfig
from ovbench.harness.generation.solvers import TABLEAUS, is_adaptive, num_evaluations, solve, time_grid
from tests.harness.generation.dit_golden import golden

FILE = golden("transport_tiny")
EULER = [name for name in FILE.document["ode"] if name.startswith("euler")]
OTHERS = [name for name in FILE.document["ode"] if not name.startswith("euler")]


def close(actual: Tensor, expected: Tensor, *, long: bool = False) -> None:
    """The tolerances of the file: `long` for 50 steps and for dopri5."""
    torch.testing.assert_close(actual, expected, rtol=1e-3 if long else 1e-4, atol=5e-4 if long else 5e-5)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The reference's dopri5 was recorded on one thread; see the trap in `solve`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CountingField:
    """The golden network's velocity for the golden labels."""

    def __init__(self) -> None:
        self.network = FILE.network()
        self.calls = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        assert t.device.type == "cpu"
        return self.network(x, t.expand(len(x)), FILE["in.ys"])


@pytest.mark.parametrize("name", EULER)
def test_euler_grid_states_and_count_equal_the_reference(name: str) -> None:
    setting = FILE.document["ode"][name]
    grid = time_grid("rae", setting["num_steps"], setting["shift"])
    torch.testing.assert_close(grid, FILE[f"out.grid_{name}"], rtol=1e-5, atol=1e-6)
    field, states = CountingField(), [FILE["in.z"]]
    final = solve(field, FILE["in.z"], grid, "euler", on_step=states.append)
    assert field.calls == setting["nfe"]
    assert torch.equal(final, states[-1])
    expected = FILE[f"out.traj_{name}"]
    if len(expected) == 1:
        close(final, expected[0], long=True)
    else:
        close(torch.stack(states), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_other_solvers_equal_torchdiffeq(name: str) -> None:
    setting = FILE.document["ode"][name]
    method = name.removesuffix(str(setting["num_steps"]))
    if is_adaptive(method) and importlib.util.find_spec("torchdiffeq") is None:
        pytest.skip("torchdiffeq is not installed (extra: offline)")
    field = CountingField()
    grid = time_grid("rae", setting["num_steps"], setting["shift"])
    with one_thread():
        final = solve(field, FILE["in.z"], grid, method, atol=setting["atol"], rtol=setting["rtol"])
    assert field.calls == setting["nfe"]
    close(final, FILE[f"out.final_{name}"], long=is_adaptive(method))


def test_grid_of_the_reference_stops_short_of_the_data() -> None:
    grid = time_grid("rae", 50, math.sqrt(48))
    assert len(grid) == 50
    assert float(grid[0]) == 1.0
    assert float(grid[-1]) == pytest.approx(0.0069, abs=1e-4)
    assert float(grid[-2]) == pytest.approx(0.1315, abs=1e-4)


def test_full_grid_ends_at_the_data() -> None:
    grid = time_grid("full", 50, 2.0)
    assert len(grid) == 51
    assert grid[[0, -1]].tolist() == [1.0, 0.0]
    assert float(grid[25]) == pytest.approx(2 / 3)
    assert bool((grid.diff() < 0).all())


@pytest.mark.parametrize(
    ("method", "grid", "expected"),
    [("euler", "rae", 49), ("euler", "full", 50), ("heun2", "rae", 98), ("midpoint", "full", 100), ("rk4", "rae", 196)],
)
def test_evaluations_are_known_beforehand(method: str, grid: str, expected: int) -> None:
    config = SamplingConfig(method=method, grid=grid)  # pyright: ignore[reportArgumentType]
    assert num_evaluations(config) == expected
    calls: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return x

    solve(field, torch.ones(1), time_grid(config.grid, config.num_steps, 1.0), method)
    assert len(calls) == expected


def test_adaptive_evaluations_are_not_known_beforehand() -> None:
    assert num_evaluations(SamplingConfig(method="dopri5")) is None


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun2", 2), ("midpoint", 2), ("rk4", 4)])
def test_error_falls_with_the_order_of_the_method(method: str, order: int) -> None:
    """dx/dt = x t from t = 1 to 0: x(0) = x(1) exp(-1/2)."""

    def error(steps: int) -> float:
        grid = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        final = solve(lambda x, t: x * t, torch.ones(1, dtype=torch.float64), grid, method)
        return abs(float(final) - math.exp(-0.5))

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.25)


def test_weights_of_every_method_sum_to_one() -> None:
    for tableau in TABLEAUS.values():
        assert sum(tableau.weights) == pytest.approx(1.0)
        for node, row in zip(tableau.nodes, tableau.stages, strict=True):
            assert sum(row) == pytest.approx(node)


def test_stages_see_the_times_of_the_grid() -> None:
    seen: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t))
        return x

    grid = torch.tensor([1.0, 0.7, 0.1])
    solve(field, torch.ones(1), grid, "heun2")
    assert seen == [float(grid[index]) for index in (0, 1, 1, 2)]


@pytest.mark.skipif(importlib.util.find_spec("torchdiffeq") is not None, reason="torchdiffeq is installed")
def test_adaptive_solver_says_what_to_install() -> None:
    with pytest.raises(DependencyError) as caught:
        solve(lambda x, t: x, torch.ones(1), torch.tensor([1.0, 0.0]), "dopri5")
    assert caught.value.what == "the package 'torchdiffeq' is not installed"
    assert caught.value.where == "the solver 'dopri5'"
    assert caught.value.fix == "run: python -m pip install 'ovbench[offline]'"


def test_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingConfig(method="euleur")  # pyright: ignore[reportArgumentType]
    assert caught.value.what == "unknown method 'euleur'"
    assert caught.value.fix == "choose one of: euler, heun2, midpoint, rk4, dopri5"
