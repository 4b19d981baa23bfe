"""Guidance against the reference's tensors, its interval, and combinations that make no sense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import GuidanceConfig, TransportConfig
from ovbench.harness.generation.guidance import blend, check_guidance, guided_velocity, in_interval
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.generation.solvers import time_grid
from tests.harness.generation.dit_golden import AUTO_SCALE, CFG_SCALE, DIT_DH, INTERVAL, NETWORKS, close, golden

CFG = GuidanceConfig(kind="cfg", scale=CFG_SCALE)
AUTO = GuidanceConfig(kind="auto", scale=AUTO_SCALE)


def run(name: str, config: GuidanceConfig) -> Tensor:
    file = golden(name)
    guide = file.network("guide") if config.kind == "auto" else None
    with torch.no_grad():
        return guided_velocity(file.network(), file["in.x"], file["in.t"], file["in.y"], config, guide=guide)


@pytest.mark.parametrize("name", NETWORKS)
def test_classifier_free_guidance_equals_the_reference(name: str) -> None:
    expected = golden(name)["out.cfg_full"]  # of the reference's doubled batch
    for half in expected.chunk(2):
        close(run(name, CFG), half)


@pytest.mark.parametrize("name", NETWORKS)
def test_autoguidance_equals_the_reference(name: str) -> None:
    close(run(name, AUTO), golden(name)["out.ag_full"])


@pytest.mark.parametrize("name", DIT_DH)
def test_guidance_in_an_interval_equals_the_reference(name: str) -> None:
    file = golden(name)
    close(run(name, replace(CFG, interval=INTERVAL)), file["out.cfg_interval"].chunk(2)[0])
    close(run(name, replace(AUTO, interval=INTERVAL)), file["out.ag_interval"])


@pytest.mark.parametrize("name", NETWORKS)
def test_images_outside_the_interval_keep_the_velocity(name: str) -> None:
    file = golden(name)  # its times are 0, inside, 1
    for config in (replace(CFG, interval=INTERVAL), replace(AUTO, interval=INTERVAL)):
        guided = run(name, config)
        close(guided[[0, 2]], file["out.v"][[0, 2]])
        assert not torch.allclose(guided[1], file["out.v"][1], atol=1e-3)


def test_both_ends_of_the_interval_are_in_it() -> None:
    times = torch.tensor([0.29, 0.3, 0.5, 0.95, 0.96])  # 0.3 and 0.95 have no exact float32
    assert in_interval(times, (0.3, 0.95)).tolist() == [False, True, True, True, False]


def test_blend_moves_away_from_the_guide() -> None:
    assert blend(torch.tensor(2.0), torch.tensor(1.0), 1.5).item() == 2.5
    assert blend(torch.tensor(2.0), torch.tensor(1.0), 1.0).item() == 2.0


def test_autoguidance_runs_each_network_once_on_the_batch_as_it_is() -> None:
    file = golden("dit_dh_tiny")
    network, guide = file.network(), file.network("guide")
    sizes: list[tuple[str, int]] = []
    network.register_forward_pre_hook(lambda _module, inputs: sizes.append(("network", len(inputs[0]))))
    guide.register_forward_pre_hook(lambda _module, inputs: sizes.append(("guide", len(inputs[0]))))
    guided_velocity(network, file["in.x"], file["in.t"], file["in.y"], AUTO, guide=guide)
    assert sizes == [("network", 3), ("guide", 3)]


def test_scale_one_runs_no_second_network() -> None:
    file = golden("dit_dh_tiny")
    network = file.network()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    config = replace(CFG, scale=1.0)
    assert not config.active
    close(guided_velocity(network, file["in.x"], file["in.t"], file["in.y"], config), file["out.v"])
    assert sizes == [3]


def test_guides_that_do_not_fit_are_refused() -> None:
    network = golden("dit_dh_tiny").network()
    with pytest.raises(ConfigError) as caught:
        check_guidance(AUTO, network, None)
    assert caught.value.what == "autoguidance needs a second network"
    with pytest.raises(ConfigError, match="a second network has no effect with guidance 'cfg'"):
        check_guidance(CFG, network, network)
    with pytest.raises(ConfigError, match="the guide has in_channels 8 and the network 12"):
        check_guidance(AUTO, network, golden("dit_dh_tiny_alt").network())
    without = build_network(replace(network.config, class_dropout_prob=0.0), seed=0)
    with pytest.raises(ConfigError, match="no label for 'no class'") as caught:
        check_guidance(CFG, without, None)
    assert "leave out classifier-free guidance" in caught.value.fix


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "cfgg"}, "unknown kind 'cfgg'"),
        ({"kind": "cfg", "scale": 0.5}, "the scale must be at least 1, got 0.5"),
        ({"kind": "cfg", "interval": (0.5, 0.2)}, "the interval must be within [0, 1], got [0.5, 0.2]"),
        ({"kind": "cfg", "interval": (0.0, 1.5)}, "the interval must be within [0, 1], got [0.0, 1.5]"),
        ({"scale": 1.5}, "a scale of 1.5 has no effect without guidance"),
    ],
)
def test_impossible_guidance_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GuidanceConfig(), **fields)
    assert caught.value.what == text
    assert caught.value.where == "guidance"


@pytest.mark.parametrize("channels", [64, 96, 128, 384, 768, 1024, 1152])
def test_the_first_step_of_every_shift_is_guided(channels: int) -> None:
    grid = time_grid("rae", 50, TransportConfig().shift_of((channels, 16, 16)))
    assert bool(in_interval(grid[0], (0.0, 1.0)))


def test_a_time_above_one_by_more_than_rounding_is_outside() -> None:
    assert in_interval(torch.tensor([1.0, 1.0000001, 1.00001]), (0.0, 1.0)).tolist() == [True, True, False]
