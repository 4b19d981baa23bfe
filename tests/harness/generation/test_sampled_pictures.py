"""From noise to 8-bit pictures: how many are asked for at once changes no byte, decoder included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.flow_config import GuidanceConfig, SamplingConfig
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.sampling import Sampler
from ovbench.harness.generation.slots import share_of_rank
from tests.harness.generation.dit_golden import perturbed
from tests.harness.generation.rae_data import patch_encoder, small_decoder

COUNT, SIZE = 64, 5  # slots of a pass, no divisor of anything here
CONFIG = DiTDHConfig(input_size=4, in_channels=6, hidden_size=(24, 40), depth=(1, 1), num_heads=(3, 5), num_classes=8)
GUIDED = GuidanceConfig(kind="cfg", scale=1.5)


@pytest.fixture(scope="module")
def rae() -> RAE:
    return RAE(patch_encoder(), small_decoder())


@pytest.fixture(scope="module", params=[GuidanceConfig(), GUIDED], ids=["plain", "guided"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    settings = SamplingConfig(num_steps=3, group_size=SIZE, guidance=request.param)
    return Sampler(perturbed(build_network(CONFIG, seed=0)), settings, seed=0, shift=1.5)


def pictures(sampler: Sampler, rae: RAE, indices: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields pictures by number, decoded in the slots of their pass."""
    for group, made in sampler.passes(indices):
        images = rae.decode_u8(group.fill(made.latents), "truncate").numpy()
        yield from zip(group.indices, images[list(group.slots)], strict=True)


@pytest.fixture(scope="module")
def whole(sampler: Sampler, rae: RAE) -> dict[int, NDArray[np.uint8]]:
    found = dict(pictures(sampler, rae, list(range(COUNT))))
    assert len({image.tobytes() for image in found.values()}) == COUNT
    return found


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_size_of_a_request_changes_no_byte(
    sampler: Sampler, rae: RAE, whole: dict[int, NDArray[np.uint8]], batch: int
) -> None:
    for first in range(0, COUNT, batch):
        for index, image in pictures(sampler, rae, list(range(first, min(first + batch, COUNT)))):
            np.testing.assert_array_equal(image, whole[index])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_are_cuts_of_the_same_latents(sampler: Sampler, batch: int) -> None:
    expected = next(iter(sampler.batches(range(COUNT), COUNT)))
    found = list(sampler.batches(range(COUNT), batch))
    assert [len(part.indices) for part in found] == [min(batch, COUNT - first) for first in range(0, COUNT, batch)]
    for part in found:
        rows = list(part.indices)
        np.testing.assert_array_equal(part.latents.numpy(), expected.latents[rows].numpy())
        np.testing.assert_array_equal(part.labels.numpy(), expected.labels[rows].numpy())


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_processes_are_the_same_pictures(
    sampler: Sampler, rae: RAE, whole: dict[int, NDArray[np.uint8]], count: int
) -> None:
    found = {}
    for rank in range(count):
        found |= dict(pictures(sampler, rae, share_of_rank(COUNT, SIZE, rank, count)))
    assert sorted(found) == list(range(COUNT))
    assert all(np.array_equal(image, whole[index]) for index, image in found.items())
