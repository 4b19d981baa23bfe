from __future__ import annotations

from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.decoder_batches import Batches, Piece
from ovbench.harness.generation.noise import noise_latents
from ovbench.harness.generation.picture_data import to_01, training_order
from ovbench.harness.generation.rae import RAE
from ovbench.harness.parallel import ALONE, Processes
from tests.harness.generation.decoder_training import Memory, recipe
from tests.harness.generation.rae_data import patch_encoder, small_decoder


def batches(micro: int | None = None, processes: Processes = ALONE, **arguments: Any) -> Batches:
    settings: dict[str, Any] = {"data": Memory(), **arguments}
    rae = RAE(patch_encoder(), small_decoder())
    return Batches(rae, settings.pop("data"), recipe(micro_batch=micro), seed=3, processes=processes, **settings)


def joined(pieces: list[Piece]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    images, raw = torch.cat([piece.images_01 for piece in pieces]), torch.cat([piece.raw for piece in pieces])
    return [use for piece in pieces for use in piece.uses], images, raw


def test_a_sample_is_what_its_number_says() -> None:
    data = Memory()
    (piece,) = batches(data=data)(2)
    assert list(piece.uses) == list(range(16, 24))  # over the end of the first epoch of 20
    indices = training_order(3, "decoder/order", 16, 8, 20)
    assert torch.equal(piece.images_01, to_01(data.crops_u8(indices, piece.uses, 3)))
    assert torch.equal(piece.raw, patch_encoder().latents(piece.images_01))
    assert piece.weight == 1.0
    noised = batches().noised(piece)
    assert torch.equal(noised, noise_latents(piece.raw, piece.uses, 3, recipe().noise))
    assert not torch.equal(noised, piece.raw)


@pytest.mark.parametrize(("micro", "sizes"), [(None, [8]), (8, [8]), (20, [8]), (4, [4, 4]), (3, [3, 3, 2])])
def test_passes_cut_the_batch_and_nothing_else(micro: int | None, sizes: list[int]) -> None:
    cut = batches(micro)
    pieces, (whole,) = cut(1), batches()(1)
    assert [len(piece.uses) for piece in pieces] == sizes
    assert cut.num_passes == len(sizes)
    assert [piece.weight for piece in pieces] == [size / 8 for size in sizes]
    uses, images, raw = joined(pieces)
    assert uses == list(whole.uses)
    assert torch.equal(images, whole.images_01)
    torch.testing.assert_close(raw, whole.raw)


def test_processes_take_contiguous_parts() -> None:
    parts = [batches(3, Processes(rank=rank, world_size=2))(1) for rank in range(2)]
    assert [[len(piece.uses) for piece in part] for part in parts] == [[3, 1], [3, 1]]
    uses, images, _ = joined([*parts[0], *parts[1]])
    (whole,) = batches()(1)
    assert uses == list(whole.uses)
    assert torch.equal(images, whole.images_01)


def test_a_step_is_made_once_for_two_optimisers() -> None:
    cut = batches()
    assert cut(1) is cut(1)
    assert list(cut(2)[0].uses) != list(cut(1)[0].uses)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 cannot be split over 3 processes"):
        batches(processes=Processes(world_size=3))


def test_cached_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"are \[8, 6, 2, 2\], and the encoder's \[8, 6, 4, 4\]"):
        batches(latents=lambda indices: torch.zeros(len(indices), 6, 2, 2))(0)
