"""The batches of the decoder's training: which pictures a process takes in a step, in passes that fit its memory.

Contract: sample k of the training (counted over all steps and processes) is the same picture, with the same crop and
the same noise, whatever the number of processes and the size of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench.harness.generation.noise import noise_latents
from ovbench.harness.generation.picture_data import PictureData, to_01, training_order
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.recipe_config import DecoderRecipe
from ovbench.harness.parallel import Processes

ORDER = "decoder/order"  # label of the order in which pictures are taken
Latents = Callable[[Sequence[int]], Tensor]  # numbers of pictures → latents before statistics, [B, C, h, w]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What goes through the networks at once."""

    uses: range  # numbers of its samples over the whole training
    images_01: Tensor  # float32 [B, 3, H, W] in [0, 1]
    raw: Tensor  # latents before statistics and without noise, float32 [B, C, h, w]
    weight: float  # part of the process's share of the batch; those of a step sum to 1


class Batches:
    """Step → the pieces of this process, on its device. The newest step is kept: two optimisers ask for it.

    Args:
        rae: Encodes pictures.
        data: Pictures.
        recipe: Batch, passes and noise.
        seed: Of the run.
        processes: Each has a contiguous part of every batch.
        latents: Latents by number of the picture, in place of the encoder.

    Raises:
        ConfigError: The batch cannot be split over the processes.
    """

    def __init__(
        self,
        rae: RAE,
        data: PictureData,
        recipe: DecoderRecipe,
        *,
        seed: int,
        processes: Processes,
        latents: Latents | None = None,
    ) -> None:
        self._rae, self._data, self._recipe, self._latents = rae, data, recipe, latents
        self._seed, self._processes = seed, processes
        self._share = processes.share(recipe.optimiser.batch_size, "a batch")
        self._newest: tuple[int, list[Piece]] | None = None

    @property
    def num_passes(self) -> int:
        """Pieces of a step."""
        return -(-self._share // self._size)

    @property
    def _size(self) -> int:
        return min(self._share, self._recipe.optimiser.micro_batch or self._share)

    def __call__(self, step: int) -> list[Piece]:
        """Returns the pieces of a step.

        Raises:
            DataError: `latents` gave another shape than the encoder's.
        """
        if self._newest is None or self._newest[0] != step:
            self._newest = None  # two steps are never held
            self._newest = (step, self._made(step))
        return self._newest[1]

    def noised(self, piece: Piece) -> Tensor:
        """Returns the latents that the decoder learns from, [B, C, h, w]."""
        return noise_latents(piece.raw, piece.uses, self._seed, self._recipe.noise)

    def _made(self, step: int) -> list[Piece]:
        first = step * self._recipe.optimiser.batch_size + self._processes.rank * self._share
        device = self._processes.device
        pieces: list[Piece] = []
        for start in range(first, first + self._share, self._size):
            uses = range(start, min(start + self._size, first + self._share))
            indices = training_order(self._seed, ORDER, start, len(uses), self._data.num_pictures)
            images = to_01(self._data.crops_u8(indices, uses, self._seed)).to(device)
            raw = self._rae.raw_latents(images) if self._latents is None else self._given(indices)
            weight = len(uses) / self._share
            pieces.append(Piece(uses=uses, images_01=images, raw=raw.to(device), weight=weight))
        return pieces

    @torch.no_grad()
    def _given(self, indices: Sequence[int]) -> Tensor:
        assert self._latents is not None
        raw = self._latents(indices).float()
        wanted = (len(indices), *self._rae.latent_shape)
        if tuple(raw.shape) != wanted:
            raise DataError(
                f"the cached latents are {list(raw.shape)}, and the encoder's {list(wanted)}",
                where="latents",
                fix="build the cache again for this encoder",
            )
        return raw
