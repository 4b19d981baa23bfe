"""Stored latents: the same bytes whoever encodes them and however often that was killed; damage is refused."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation import latents as latents_module
from ovbench.harness.generation.latents import LatentEncoder, LatentStore, fold, store_latents, unfold
from ovbench.harness.generation.picture_data import to_01
from tests.harness.generation.decoder_training import Memory
from tests.harness.generation.rae_data import patch_encoder, randn
from tests.harness.generation.ranks import ranks

COUNT = 70  # three passes of 32, the last one not full


class Killed(Exception):
    pass


def source() -> LatentEncoder:
    return LatentEncoder(patch_encoder(), Memory(COUNT))  # pyright: ignore[reportArgumentType]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def store(folder: Path, **changes: Any) -> dict[str, bytes]:
    store_latents(source(), folder, **{"dtype": "float32", "flips": True, **changes})
    return files(folder)


def together(count: int, folder: Path) -> None:
    """Stores by several processes; sources are made before, since threads share torch's generator."""
    sources = [source() for _ in range(count)]
    ranks(count, lambda one: store_latents(sources[one.rank], folder, dtype="float32", flips=True, processes=one))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All latents in float32, plain and mirrored."""
    folder = tmp_path_factory.mktemp("latents")
    store(folder)
    return folder


def test_folding_moves_squares_of_cells_into_channels_and_back() -> None:
    latents = randn(2, 3, 4, 4)
    folded = fold(latents, 2)
    assert folded.shape == (2, 12, 2, 2)
    assert torch.equal(folded[0, :4, 1, 0], latents[0, 0, 2:4, 0:2].flatten())
    assert torch.equal(unfold(folded, 2), latents)
    assert fold(latents, 1) is latents
    assert unfold(latents, 1) is latents


def test_what_is_stored_is_what_the_encoder_gives(whole: Path) -> None:
    encoder, found = source(), LatentStore(whole)
    indices, mirrored = [3, 69, 3, 40], [False, True, True, False]
    assert found.shape == encoder.shape
    torch.testing.assert_close(found(indices, mirrored), encoder(indices, mirrored), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found(indices), encoder(indices), rtol=1e-5, atol=1e-5)


def test_mirrored_latents_are_those_of_the_mirrored_picture() -> None:
    encoder = source()
    expected = encoder.encoder.latents(to_01(Memory(COUNT).images_u8([5])).flip(-1))
    assert torch.equal(encoder([5], [True]), expected)
    assert not torch.allclose(encoder([5], [True]), encoder([5]).flip(-1))


@pytest.mark.parametrize("mirrored", [False, True])
def test_store_and_encoder_yield_the_same_passes(whole: Path, mirrored: bool) -> None:
    wanted = [*range(5, 20), *range(40, 70)]
    encoded = list(source().passes(wanted, mirrored=mirrored))
    stored = list(LatentStore(whole).passes(wanted, mirrored=mirrored))
    assert [indices for indices, _ in stored] == [indices for indices, _ in encoded]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(stored, encoded, strict=True))


def test_a_latent_does_not_depend_on_the_others_of_its_pass() -> None:
    alone = {indices[0]: rows[0] for index in (0, 7, 69) for indices, rows in source().passes([index])}
    together = {
        index: row for indices, rows in source().passes(range(COUNT)) for index, row in zip(indices, rows, strict=True)
    }
    assert all(torch.equal(row, together[index]) for index, row in alone.items())


def test_bfloat16_is_the_rounded_latent(tmp_path: Path, whole: Path) -> None:
    store(tmp_path, dtype="bfloat16", flips=False)
    found = LatentStore(tmp_path)(range(COUNT))
    assert found.dtype == torch.float32
    assert torch.equal(found, LatentStore(whole)(range(COUNT)).bfloat16().float())
    assert (tmp_path / "plain.bin").stat().st_size * 2 == (whole / "plain.bin").stat().st_size


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_processes_stores_the_same_bytes(tmp_path: Path, whole: Path, count: int) -> None:
    together(count, tmp_path)
    assert files(tmp_path) == files(whole)


def killed_at(picture: int) -> LatentEncoder:
    """A source that dies when it is asked for a picture."""
    made = source()
    read = made.data.images_u8

    def images_u8(indices: Sequence[int]) -> Any:
        if picture in indices:
            raise Killed
        return read(indices)

    made.data.images_u8 = images_u8  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("picture", [0, 32, 69])
def test_a_killed_call_goes_on_and_stores_the_same_bytes(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, picture: int
) -> None:
    monkeypatch.setattr(latents_module, "SAVE_EVERY", 1)
    with pytest.raises(Killed):
        store_latents(killed_at(picture), tmp_path, dtype="float32", flips=True)
    with pytest.raises(DataError, match="stored latents cannot be read"):
        LatentStore(tmp_path)  # half of it is not taken for the whole
    rest = source()
    asked: list[int] = []
    read = rest.data.images_u8
    rest.data.images_u8 = lambda indices: (asked.extend(indices), read(indices))[1]  # type: ignore[method-assign]
    store_latents(rest, tmp_path, dtype="float32", flips=True)
    assert files(tmp_path) == files(whole)
    assert min(asked) == picture // 32 * 32  # finished passes are not encoded again


def test_another_number_of_processes_takes_over_a_killed_call(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents_module, "SAVE_EVERY", 1)
    with pytest.raises(Killed):
        store_latents(killed_at(69), tmp_path, dtype="float32", flips=True)
    together(2, tmp_path)
    assert files(tmp_path) == files(whole)


def test_a_note_about_files_that_are_gone_is_not_believed(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "done-0-of-1").write_text("2")
    store(tmp_path)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize("damage", ["cut", "missing", "card", "empty card"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    store(tmp_path)
    view, card = tmp_path / "mirrored.bin", tmp_path / "latents.json"
    match damage:
        case "cut":
            view.write_bytes(view.read_bytes()[:-4])
        case "missing":
            view.unlink()
        case "card":
            card.write_text(card.read_text()[:-9])
        case _:
            card.write_text("{}")
    with pytest.raises(DataError, match="stored latents cannot be read") as caught:
        LatentStore(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_views_that_were_not_stored_are_refused(tmp_path: Path) -> None:
    store(tmp_path, flips=False)
    assert not (tmp_path / "mirrored.bin").exists()
    with pytest.raises(DataError, match="mirrored latents were not stored"):
        LatentStore(tmp_path)([1, 2], [False, True])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_latents_that_are_not_finite_are_refused(tmp_path: Path, dtype: Literal["bfloat16", "float32"]) -> None:
    made = source()
    encode = made.encoder.latents

    def broken(*arguments: Any, **options: Any) -> Tensor:
        rows = encode(*arguments, **options).clone()
        rows[1, 0, 0, 0] = float("inf")
        return rows

    made.encoder.latents = broken  # type: ignore[method-assign]
    with pytest.raises(DataError, match="gave NaN or infinite latents for pictures 0 … 31"):
        store_latents(made, tmp_path, dtype=dtype, flips=False)


def test_a_full_disk_is_said_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    made = source()
    made.data.images_u8 = lambda indices: pytest.fail("pictures were read")  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="no space left on the device"):
        store_latents(made, tmp_path, dtype="float32", flips=False)
    assert not (tmp_path / "latents.json").exists()


def test_progress_counts_the_passes_of_this_process(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store(tmp_path, progress=lambda done, total, **fields: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_empty_requests_are_empty(whole: Path) -> None:
    assert list(LatentStore(whole).passes([])) == []
    assert np.prod(LatentStore(whole).shape) == 6 * 4 * 4
