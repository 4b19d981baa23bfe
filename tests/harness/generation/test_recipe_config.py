"""The `generation` section of protocols: strict reading, sizes that fit, epochs and steps."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.protocols import load_protocol, protocol_names

WITH_PICTURES = [name for name in protocol_names() if "generation" in load_protocol(name).suites]


def section(**changes: Any) -> dict[str, Any]:
    """Returns the mini protocol's section with keys replaced; `data__num_train` is a key of `data`."""
    copy = yaml.safe_load(yaml.safe_dump(dict(load_protocol("mini").section("generation"))))
    for path, value in changes.items():
        *way, last = path.split("__")
        place = copy
        for part in way:
            place = place[part]
        place[last] = value
    return copy


def read(**changes: Any) -> GenerationRecipe:
    return read_recipe(section(**changes), where="here")


@pytest.mark.parametrize("name", WITH_PICTURES)
def test_every_protocol_with_pictures_can_be_read(name: str) -> None:
    recipe = read_recipe(load_protocol(name).section("generation"), where=name)
    assert recipe.dit.probes
    assert recipe.data.image_px % recipe.grid == 0


@pytest.mark.parametrize(
    ("name", "epochs", "preset"),
    [
        ("rae-imagenet256", 800, "dit-dh-xl"),
        ("rae-imagenet256-80ep", 80, "dit-dh-xl"),
        ("rae-imagenet256-100ep", 100, "dit-dh-xl"),
        ("rae-imagenet256-proxy", 100, "dit-dh-s"),
    ],
)
def test_paper_protocols_are_the_published_recipes(name: str, epochs: float, preset: str) -> None:
    recipe = read_recipe(load_protocol(name).section("generation"), where=name)
    assert (recipe.dit.optimiser.epochs, recipe.dit.preset) == (epochs, preset)
    assert recipe.decoder.optimiser.epochs == 16
    assert recipe.decoder.loss.gan_from_epoch == 8
    assert recipe.decoder.noise.tau == 0.8
    assert recipe.dit.optimiser.ema.decay == 0.9995
    assert (recipe.sampling.sampler.num_steps, recipe.sampling.sampler.grid) == (50, "rae")
    assert recipe.dit.transport.shift_of((768, 16, 16)) == pytest.approx(6.928, abs=1e-3)


def test_the_full_protocol_makes_50000_samples_in_batches_of_1024() -> None:
    recipe = read_recipe(load_protocol("rae-imagenet256").section("generation"), where="here")
    assert recipe.sampling.num_samples == 50000
    assert recipe.dit.optimiser.batch_size == 1024
    assert recipe.dit.optimiser.num_steps(1281167) == 800 * 1251


def test_lists_become_tuples_and_numbers_floats() -> None:
    recipe = read()
    assert recipe.dit.probes == (2.5, 5.0, 7.5)
    assert recipe.dit.changes["hidden_size"] == (96, 160)


def test_the_network_takes_the_latents_and_classes_of_the_run() -> None:
    network = read().network(channels=64, grid=4)
    assert isinstance(network, DiTDHConfig)
    assert (network.in_channels, network.input_size, network.num_classes) == (64, 4, 8)


def test_a_token_wider_than_the_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="1024 channels, and the network is 160 wide"):
        read().network(channels=1024, grid=4)


def test_the_decoder_makes_pictures_of_the_protocols_side() -> None:
    assert read().decoder_config(channels=128, num_tokens=16).output_px == 32
    with pytest.raises(ConfigError, match="no whole number of patches"):
        read().decoder_config(channels=128, num_tokens=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dit__presett": "x"}, "unknown key 'presett'"),
        ({"data": {"source": "world"}}, "the key 'image_px' is missing"),
        ({"data__source": "imagenett"}, "none of: world, imagenet"),
        ({"data__world_seed": None}, "the world needs"),
        ({"grid": "four"}, "expected int"),
        ({"grid": True}, "expected int"),
        ({"dit__optimiser__betas": [0.9]}, "expected 2 values, got 1"),
        ({"dit__optimiser__batch_size": 0}, "batch_size must be positive"),
        ({"dit__probes": [5, 2]}, "probes must rise"),
        ({"dit__probes": [20]}, "probes must rise"),
        ({"sampling__num_samples": -1}, "num_samples must be 2 or more"),
        ({"sampling__sampler__rng": "reference"}, "for parity runs"),
        ({"stats__num_pictures": 0}, "num_pictures must be positive"),
        ({"grid": 0}, "grid must be positive"),
        ({"decoder": 3}, "expected settings by name"),
        ({"sampling__sampler__method": "eulr"}, "none of: euler"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_an_unknown_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        read(dit__optimiser__epoch=3)
    assert "did you mean 'epochs'?" in caught.value.fix


def test_the_steps_of_an_epoch_are_whole_batches() -> None:
    optimiser = read().dit.optimiser
    assert optimiser.steps_per_epoch(8192) == 128
    assert optimiser.steps_per_epoch(8255) == 128
    assert optimiser.steps_per_epoch(10) == 1
    assert optimiser.num_steps(8192) == 1280


def test_probes_fall_on_updates_of_their_own() -> None:
    assert read().dit.probe_steps(8192) == {320: 2.5, 640: 5.0, 960: 7.5}
    with pytest.raises(ConfigError, match="fall on one update"):
        read(dit__probes=[2.5, 2.501]).dit.probe_steps(8192)
    with pytest.raises(ConfigError, match="fall on one update"):
        read(dit__probes=[9.999]).dit.probe_steps(64)
