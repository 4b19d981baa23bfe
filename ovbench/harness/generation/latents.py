"""Raw latents of a set of pictures by number: encoded when they are asked for, or once and kept in files.

Contract: a stored latent does not depend on who encoded it. Pictures go through the encoder in passes of fixed size and
place (`slots`), so the same bits come out for any batch, number of processes and restart. Flips are stored as latents
of their own, since features of a mirrored picture are not the mirrored features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_write_text, make_dir, writing
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.generation.picture_data import PictureData, to_01
from ovbench.harness.generation.slots import groups, share_of_rank
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.training import Progress, no_progress

PASS = 32  # pictures of one pass through the encoder
SAVE_EVERY = 32  # passes, after which a killed call is not done again
StoreType = Literal["bfloat16", "float32"]
_VIEWS = ("plain", "mirrored")
_CARD = "latents.json"


def fold(latents: Tensor, factor: int) -> Tensor:
    """Moves squares of factor x factor cells into channels: [B, C, H, W] → [B, C factor², H / factor, W / factor].

    Latents of a VAE have few channels and many cells; folded they are tokens of one cell, as DiT-DH reads them.
    """
    return latents if factor == 1 else F.pixel_unshuffle(latents, factor)


def unfold(latents: Tensor, factor: int) -> Tensor:
    """Undoes `fold`."""
    return latents if factor == 1 else F.pixel_shuffle(latents, factor)


class LatentEncoder:
    """Pictures of a set, by number and view, through a frozen encoder.

    Args:
        encoder: The encoder.
        data: The pictures.
        tap: Layer and norm; None: the encoder's own for latents.
    """

    def __init__(self, encoder: Encoder, data: PictureData, tap: Tap | None = None) -> None:
        self.encoder, self.data, self.tap = encoder, data, tap

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return (self.encoder.info.dim, *self.encoder.info.grid)

    def __call__(self, indices: Sequence[int], mirrored: Sequence[bool] | None = None) -> Tensor:
        """Returns raw latents, float32 [B, C, h, w], on the encoder's device."""
        images_01 = to_01(self.data.images_u8(indices))
        if mirrored is not None:
            flip = torch.as_tensor(np.asarray(mirrored, dtype=bool))
            images_01 = torch.where(flip[:, None, None, None], images_01.flip(-1), images_01)
        return self.encoder.latents(images_01, self.tap, resize=True)

    def passes(self, indices: Sequence[int], *, mirrored: bool = False) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Yields numbers and latents in passes of fixed size and place; see the head of the file."""
        for group in groups(indices, PASS):
            images_01 = to_01(self.data.images_u8(group.indices))
            filled = group.fill(images_01.flip(-1) if mirrored else images_01)
            yield group.indices, group.take(self.encoder.latents(filled, self.tap, resize=True))


class LatentStore:
    """Latents of a whole set in files, one per view, mapped into memory.

    Args:
        folder: Where `fill` wrote them.

    Raises:
        DataError: There are none, or they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
            self.shape: tuple[int, int, int] = tuple(card["shape"])
            self._wide = card["dtype"] == "float32"
            count = int(card["num_pictures"])
            self._maps = [
                np.memmap(folder / f"{view}.bin", dtype=_NUMPY[card["dtype"]], mode="r", shape=(count, *self.shape))
                for view in card["views"]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"the stored latents cannot be read: {error}", where=str(folder)) from error

    def __call__(self, indices: Sequence[int], mirrored: Sequence[bool] | None = None) -> Tensor:
        """Returns raw latents, float32 [B, C, h, w], on the CPU."""
        views = [0] * len(indices) if mirrored is None else [int(flag) for flag in mirrored]
        if len(self._maps) == 1 and any(views):
            raise DataError("mirrored latents were not stored", where="latents")
        rows = np.stack([self._maps[view][index] for view, index in zip(views, indices, strict=True)])
        return torch.from_numpy(rows) if self._wide else torch.from_numpy(rows).view(torch.bfloat16).float()

    def passes(self, indices: Sequence[int], *, mirrored: bool = False) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Yields numbers and latents, as `LatentEncoder.passes` does."""
        for group in groups(indices, PASS):
            yield group.indices, self(group.indices, [mirrored] * len(group.indices))


_NUMPY: dict[str, Any] = {"float32": np.float32, "bfloat16": np.int16}  # NumPy knows no bfloat16: its bits are kept


def store_latents(
    source: LatentEncoder,
    folder: Path,
    *,
    dtype: StoreType,
    flips: bool,
    processes: Processes = ALONE,
    progress: Progress = no_progress,
) -> int:
    """Writes the latents of all pictures; continues where a killed call stopped.

    Args:
        source: Pictures and encoder.
        folder: Where the files go; the same for all processes.
        dtype: Of storage. bfloat16 has a relative error of up to 2^-9.
        flips: Store mirrored pictures too.
        processes: Each takes passes in turn.
        progress: Told the number of this process's passes that are done.

    Returns:
        How many pictures this process encoded now.

    Raises:
        ConfigError: The disk is full.
        DataError: The encoder gave NaN or infinite latents.
    """
    views = _VIEWS if flips else _VIEWS[:1]
    count = source.data.num_pictures
    shape = (count, *source.shape)
    with writing(make_dir(folder)):
        if processes.is_main:
            size = int(np.prod(shape)) * np.dtype(_NUMPY[dtype]).itemsize
            paths = [folder / f"{view}.bin" for view in views]
            if any(not path.is_file() or path.stat().st_size != size for path in paths):
                _forget(folder)  # what markers say is of other files
            for path in paths:
                _reserve(path, size)
        processes.barrier()
        own = list(groups(share_of_rank(count, PASS, processes.rank, processes.world_size), PASS))
        # Passes are done in order, so one number per process says where to go on; another number of processes starts
        # anew, since its passes are others.
        marker = folder / f"done-{processes.rank}-of-{processes.world_size}"
        start = int(marker.read_text()) if marker.is_file() else 0
        maps = [np.memmap(folder / f"{view}.bin", dtype=_NUMPY[dtype], mode="r+", shape=shape) for view in views]
        for done, group in enumerate(own[start:], start=start + 1):
            for view, rows in enumerate(maps):
                ((indices, latents),) = source.passes(group.indices, mirrored=bool(view))
                if not bool(latents.isfinite().all()):
                    raise DataError(
                        f"the encoder '{source.encoder.info.name}' gave NaN or infinite latents for pictures "
                        f"{indices[0]} … {indices[-1]}",
                        where="latents",
                        fix="look for a damaged picture, or an encoder that overflows in half precision",
                    )
                wide = latents.cpu()
                rows[list(indices)] = (wide if dtype == "float32" else wide.bfloat16().view(torch.int16)).numpy()
            if done % SAVE_EVERY == 0 or done == len(own):
                for rows in maps:
                    rows.flush()
                atomic_write_text(marker, str(done))
            progress(done, len(own))
    processes.barrier()
    if processes.is_main:
        _forget(folder)
        card = {"shape": list(source.shape), "dtype": dtype, "views": list(views), "num_pictures": count}
        atomic_write_text(folder / _CARD, json.dumps(card, sort_keys=True) + "\n")
    processes.barrier()
    return sum(len(group.indices) for group in own[start:])


def _forget(folder: Path) -> None:
    """Removes what processes have noted about their passes."""
    for marker in folder.glob("done-*-of-*"):
        marker.unlink()


def _reserve(path: Path, size: int) -> None:
    """Makes a file of a size on the disk; what is in it stays."""
    import os

    with path.open("ab"):
        pass
    with path.open("r+b") as stream:
        # Trap: a file that is merely made long enough kills the process when the disk fills up under a mapped page.
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
