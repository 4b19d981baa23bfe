"""Sampling: the reference's guided trajectories, and images that depend on their number alone."""

from __future__ import annotations

import importlib.util
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import DiTDHConfig, LightningDiTConfig, Stage2Config
from ovbench.harness.generation.draws import class_labels, indexed_noise, reference_labels
from ovbench.harness.generation.flow_config import GuidanceConfig, SamplingConfig
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.generation.sampling import Evaluations, Sampler
from ovbench.harness.generation.slots import share_of_rank
from tests.harness.generation.dit_golden import golden, perturbed

FILE = golden("transport_tiny")
SHIFT = FILE.document["shift"]
EULER10 = SamplingConfig(num_steps=10)
# Odd sizes: neither rows nor values fill whole vector registers.
ODD_DH = DiTDHConfig(input_size=3, in_channels=5, hidden_size=(24, 40), depth=(2, 1), num_heads=(3, 5), num_classes=70)
MINI_DH = replace(ODD_DH, num_classes=8)
ODD_DIT = LightningDiTConfig(
    input_size=6, patch_size=2, in_channels=3, hidden_size=36, depth=2, num_heads=3, num_classes=70, use_swiglu=False
)
CONFIGS = {"dit-dh": ODD_DH, "few labels": MINI_DH, "dit": ODD_DIT}


def network_of(config: Stage2Config, seed: int = 0) -> Stage2Network:
    return perturbed(build_network(config, seed=seed))


def sampler_of(config: Stage2Config, settings: SamplingConfig | None = None, **options: Any) -> Sampler:
    settings = settings or SamplingConfig(num_steps=4)
    guide = network_of(config, seed=9) if settings.guidance.kind == "auto" else None
    return Sampler(network_of(config), settings, **{"seed": 0, "shift": 2.0, "guide": guide, **options})


def gathered(sampler: Sampler, indices: Any, batch_size: int) -> dict[int, Tensor]:
    return {
        index: latent
        for batch in sampler.batches(indices, batch_size)
        for index, latent in zip(batch.indices, batch.latents, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "guidance", "evaluations"),
    [
        ("cfg", GuidanceConfig(kind="cfg", scale=1.6), Evaluations(velocities=9, network=18, guide=0)),
        (
            "cfg_interval",
            GuidanceConfig(kind="cfg", scale=1.6, interval=(0.3, 0.95)),
            Evaluations(velocities=9, network=15, guide=0),
        ),
        ("ag", GuidanceConfig(kind="auto", scale=1.42), Evaluations(velocities=9, network=9, guide=9)),
    ],
)
def test_guided_sampling_equals_the_reference(name: str, guidance: GuidanceConfig, evaluations: Evaluations) -> None:
    guide = FILE.network("guide") if guidance.kind == "auto" else None
    sampler = Sampler(FILE.network(), replace(EULER10, guidance=guidance), seed=0, shift=SHIFT, guide=guide)
    final = sampler.solve(FILE["in.z"], FILE["in.ys"])
    torch.testing.assert_close(final, FILE[f"out.final_{name}"], rtol=1e-4, atol=5e-5)
    assert sampler.evaluations == evaluations


def test_plain_sampling_equals_the_reference() -> None:
    sampler = Sampler(FILE.network(), EULER10, seed=0, shift=SHIFT)
    final = sampler.solve(FILE["in.z"], FILE["in.ys"])
    torch.testing.assert_close(final, FILE["out.traj_euler10_shift"][-1], rtol=1e-4, atol=5e-5)
    assert sampler.evaluations == Evaluations(velocities=9, network=9, guide=0)


@pytest.mark.parametrize("kind", ["none", "cfg", "auto"])
@pytest.mark.parametrize("name", CONFIGS)
def test_batch_size_changes_no_bit(name: str, kind: Any) -> None:
    guidance = GuidanceConfig(kind=kind, scale=1.0 if kind == "none" else 1.5, interval=(0.2, 0.9))
    settings = SamplingConfig(num_steps=4, guidance=guidance)
    made = {size: gathered(sampler_of(CONFIGS[name], settings), range(70), size) for size in (1, 7, 64)}
    assert list(made[1]) == list(range(70))
    for index in range(70):
        assert torch.equal(made[1][index], made[7][index])
        assert torch.equal(made[1][index], made[64][index])


@pytest.mark.parametrize("name", CONFIGS)
def test_restart_and_processes_change_no_bit(name: str) -> None:
    sampler = sampler_of(CONFIGS[name])
    whole = gathered(sampler, range(150), 64)
    parts = [gathered(sampler, share_of_rank(150, sampler.group_size, rank, 2), 5) for rank in (0, 1)]
    parts.append(gathered(sampler, range(61, 67), 3))  # from the middle of a pass
    parts.append(gathered(sampler, [2, 99, 149], 64))
    assert set(parts[0]) | set(parts[1]) == set(whole)
    for part in parts:
        assert all(torch.equal(latent, whole[index]) for index, latent in part.items())


def test_group_size_changes_only_the_last_bits() -> None:
    one, other = (
        gathered(sampler_of(ODD_DH, SamplingConfig(num_steps=4, group_size=size)), range(20), 20) for size in (1, 16)
    )
    for index in range(20):
        torch.testing.assert_close(one[index], other[index], rtol=1e-4, atol=1e-5)


def test_sample_is_that_of_its_own_noise_and_label() -> None:
    sampler = sampler_of(ODD_DH, SamplingConfig(num_steps=4, group_size=1))
    made = gathered(sampler, [5, 40], 2)
    for index in (5, 40):
        label, noise = class_labels(0, [index], 70), indexed_noise(0, [index], (5, 3, 3))
        assert torch.equal(sampler.solve(noise, label)[0], made[index])


def test_seed_and_label_matter() -> None:
    first, other = (gathered(sampler_of(ODD_DH, seed=seed), range(4), 4) for seed in (0, 1))
    assert not any(torch.equal(first[index], other[index]) for index in range(4))
    sampler = sampler_of(ODD_DH)
    noise = indexed_noise(0, [0], (5, 3, 3)).expand(2, -1, -1, -1)
    one, two = sampler.solve(noise, torch.tensor([0, 1]))
    assert float((one - two).abs().max()) > 1e-5


def test_labels_of_a_run_are_exact_and_on_the_samples() -> None:
    sampler = sampler_of(MINI_DH)
    batches = list(sampler.batches(range(24), 7))
    assert [len(batch.indices) for batch in batches] == [7, 7, 7, 3]
    labels = torch.cat([batch.labels for batch in batches])
    assert Counter(labels.tolist()) == dict.fromkeys(range(8), 3)
    assert torch.equal(labels, sampler.labels(range(24)))


def test_only_wanted_passes_are_computed() -> None:
    sampler = sampler_of(ODD_DH, SamplingConfig(num_steps=3, group_size=4))
    sizes: list[int] = []
    sampler.network.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    gathered(sampler, [0, 3, 21], 1)
    assert sizes == [4] * 4  # two passes of two steps


def test_no_trajectory_is_kept() -> None:
    sampler = sampler_of(ODD_DH, SamplingConfig(num_steps=6))
    states: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watch(_module: object, inputs: tuple[Tensor, ...]) -> None:
        alive.append(sum(reference() is not None for reference in states))
        states.append(weakref.ref(inputs[0]))

    sampler.network.register_forward_pre_hook(watch)
    sampler.solve(indexed_noise(0, [0, 1], (5, 3, 3)), torch.tensor([0, 1]))
    assert len(alive) == 5
    assert max(alive) <= 1  # the state before is still in the call


@pytest.mark.parametrize("kind", ["rae", "full"])
def test_straight_paths_are_followed_to_the_end_of_the_grid(kind: Any) -> None:
    """A network whose velocity is its input's noise - data for one known pair reaches the data of `full` exactly."""
    sampler = sampler_of(ODD_DH, SamplingConfig(num_steps=8, grid=kind))
    data, noise = torch.full((1, 5, 3, 3), 0.25), indexed_noise(0, [0], (5, 3, 3))

    class Straight(torch.nn.Module):
        config = sampler.network.config

        def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return (noise - data).expand_as(x)

    sampler.network = Straight()  # pyright: ignore[reportAttributeAccessIssue]
    final = sampler.solve(noise, torch.tensor([0]))
    end = float(sampler.grid[-1])
    torch.testing.assert_close(final, (1 - end) * data + end * noise, rtol=1e-5, atol=1e-5)
    assert (end == 0.0) == (kind == "full")


def test_bfloat16_keeps_the_state_in_float32_and_is_near() -> None:
    exact = gathered(sampler_of(MINI_DH), range(4), 4)
    low = gathered(sampler_of(MINI_DH, SamplingConfig(num_steps=4, precision="bfloat16")), range(4), 4)
    for index in range(4):
        assert low[index].dtype == torch.float32
        assert 0 < float((low[index] - exact[index]).norm() / exact[index].norm()) < 0.05


def test_adaptive_images_have_a_pass_of_their_own() -> None:
    sampler = sampler_of(ODD_DH, SamplingConfig(method="dopri5"))
    assert sampler.group_size == 1
    with pytest.raises(ConfigError, match="dopri5 chooses its steps by all images of a pass"):
        SamplingConfig(method="dopri5", group_size=4)


@pytest.mark.skipif(
    importlib.util.find_spec("torchdiffeq") is None, reason="torchdiffeq is not installed (extra: offline)"
)
def test_adaptive_images_do_not_depend_on_the_batch() -> None:
    settings = SamplingConfig(method="dopri5")
    one, other = (gathered(sampler_of(ODD_DH, settings), range(5), size) for size in (1, 5))
    assert all(torch.equal(one[index], other[index]) for index in range(5))


def test_reference_batches_have_its_labels_numbers_and_padding() -> None:
    settings = SamplingConfig(num_steps=2, rng="reference")
    numbers: list[int] = []
    labels: dict[int, int] = {}
    for rank in range(3):
        sampler = sampler_of(MINI_DH, settings, seed=4)
        for batch in sampler.reference_batches(40, 4, rank=rank, world_size=3):
            assert batch.latents.shape == (4, 5, 3, 3)
            numbers += batch.indices
            labels |= dict(zip(batch.indices, batch.labels.tolist(), strict=True))
    assert sorted(numbers) == list(range(48))
    expected = reference_labels(40, 8, seed=4, batch_size=4, world_size=3)
    assert [labels[index] for index in range(48)] == expected.tolist()


def test_calls_and_settings_must_agree_on_the_random_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        next(sampler_of(MINI_DH).reference_batches(8, 4))
    assert caught.value.what == "the settings say rng 'indexed', and this call draws 'reference'"
    assert caught.value.fix == "set rng to reference, or call passes or batches"
    with pytest.raises(ConfigError) as caught:
        next(sampler_of(MINI_DH, SamplingConfig(rng="reference")).batches(range(4), 4))
    assert caught.value.fix == "set rng to indexed, or call reference_batches"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_steps": 1}, "num_steps must be a whole number from 2 on the grid 'rae', got 1"),
        ({"num_steps": 0, "grid": "full"}, "num_steps must be a whole number from 1 on the grid 'full', got 0"),
        ({"atol": 0.0}, "atol and rtol must be positive, got 0.0 and 0.001"),
        ({"group_size": 0}, "group_size must be a whole number from 1, got 0"),
        ({"labels": "some"}, "unknown labels 'some'"),
        ({"rng": "global"}, "unknown rng 'global'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SamplingConfig(), **fields)
    assert caught.value.what == text


def test_impossible_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="the batch size must be positive, got 0"):
        next(sampler_of(MINI_DH).batches(range(4), 0))
