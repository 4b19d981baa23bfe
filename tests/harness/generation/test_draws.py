"""Random numbers by index: nothing but the seed and the index counts; and the reference's own lists."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.draws import (
    class_labels,
    indexed_noise,
    reference_batches,
    reference_labels,
    training_draws,
)
from tests.conftest import GOLDEN

PINNED = json.loads((GOLDEN / "rae_misc.json").read_text(encoding="utf-8"))["labels_equal"]


def test_noise_of_an_image_is_its_own() -> None:
    every = indexed_noise(3, range(10), (2, 4, 4))
    assert torch.equal(indexed_noise(3, [7, 2], (2, 4, 4)), every[[7, 2]])
    assert not torch.equal(indexed_noise(4, [7], (2, 4, 4))[0], every[7])
    assert not torch.equal(indexed_noise(3, [7], (2, 4, 4), label="other")[0], every[7])
    assert indexed_noise(3, [], (2, 4, 4)).shape == (0, 2, 4, 4)


def test_noise_is_standard_normal_and_never_changes() -> None:
    noise = indexed_noise(0, range(50), (4, 16, 16))
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert noise[0, 0, 0, :3].tolist() == pytest.approx([0.9080478, 2.0118537, -0.8839366], abs=1e-5)


@pytest.mark.parametrize("num_images", [8, 80, 83])
def test_equal_labels_are_exact_for_any_number_of_images(num_images: int) -> None:
    counts = Counter(class_labels(1, range(num_images), 8).tolist())
    assert set(counts.values()) <= {num_images // 8, -(-num_images // 8)}
    assert len(counts) == 8


def test_label_of_an_image_does_not_depend_on_the_others() -> None:
    for mode in ("equal", "random"):
        every = class_labels(0, range(40), 10, mode)
        assert torch.equal(class_labels(0, [31, 4, 5], 10, mode), every[[31, 4, 5]])
        assert every.dtype == torch.int64


def test_equal_labels_come_in_an_order_of_their_own_each_time() -> None:
    rows = class_labels(0, range(100), 10).reshape(10, 10).tolist()
    assert all(sorted(row) == list(range(10)) for row in rows)
    assert len({tuple(row) for row in rows}) == 10
    assert class_labels(1, range(10), 10).tolist() != rows[0]


def test_random_labels_are_uniform() -> None:
    counts = Counter(class_labels(0, range(2000), 4, "random").tolist())
    assert all(430 < counts[label] < 570 for label in range(4))


def test_no_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="the number of classes must be positive, got 0"):
        class_labels(0, [0], 0)


def test_training_draws_of_a_sample_are_its_own() -> None:
    every = training_draws(5, range(100, 164), (2, 3, 3), drop_probability=0.25)
    some = training_draws(5, [130, 101], (2, 3, 3), drop_probability=0.25)
    for name in ("uniforms", "drop", "noise"):
        assert torch.equal(getattr(some, name), getattr(every, name)[[30, 1]])
    assert 6 <= int(every.drop.sum()) <= 26
    assert not torch.equal(every.noise, indexed_noise(5, range(100, 164), (2, 3, 3)))  # sampling draws other noise


def test_drop_probability_is_kept_at_its_ends() -> None:
    assert not training_draws(0, range(50), (1, 1, 1), drop_probability=0.0).drop.any()
    assert training_draws(0, range(50), (1, 1, 1), drop_probability=1.0).drop.all()


@pytest.mark.parametrize(
    ("name", "batch_size", "world_size"),
    [("num50_batch5_world2", 5, 2), ("num50_batch5_world1", 5, 1), ("num50_batch4_world3_padded", 4, 3)],
)
def test_reference_labels_are_the_pinned_ones(name: str, batch_size: int, world_size: int) -> None:
    labels = reference_labels(50, 10, seed=0, batch_size=batch_size, world_size=world_size)
    assert labels.tolist() == PINNED[name]


def test_reference_labels_need_whole_numbers() -> None:
    with pytest.raises(ConfigError, match="51 images are no whole number for each of 10 classes"):
        reference_labels(51, 10, seed=0, batch_size=5, world_size=1)
    with pytest.raises(ConfigError, match="must be positive"):
        reference_labels(50, 10, seed=0, batch_size=0, world_size=1)


def test_reference_batches_draw_from_one_generator_per_process() -> None:
    made = list(
        reference_batches(50, (2, 3, 3), 10, mode="equal", seed=0, batch_size=4, rank=1, world_size=3, device="cpu")
    )
    generator = torch.Generator().manual_seed(0 * 3 + 1)
    labels = torch.tensor(PINNED["num50_batch4_world3_padded"])
    assert len(made) == 5
    for step, (noise, drawn) in enumerate(made):
        assert torch.equal(noise, torch.randn(4, 2, 3, 3, generator=generator))
        assert drawn.tolist() == labels[step * 12 + 1 : step * 12 + 13 : 3][:4].tolist()


def test_reference_draws_random_labels_after_the_noise() -> None:
    made = list(
        reference_batches(6, (2, 3, 3), 10, mode="random", seed=2, batch_size=3, rank=0, world_size=1, device="cpu")
    )
    generator = torch.Generator().manual_seed(2)
    for noise, labels in made:
        assert torch.equal(noise, torch.randn(3, 2, 3, 3, generator=generator))
        assert torch.equal(labels, torch.randint(0, 10, (3,), generator=generator))
