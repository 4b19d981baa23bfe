from __future__ import annotations

import io
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Tap
from ovbench.harness.generation.latent_stats import LatentMoments, LatentStats, compute_stats, latent_fingerprint
from tests.harness.generation.rae_data import assert_golden, golden, golden_names, patch_encoder, pictures, randn

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "latents.py")))


def _latents(count: int = 60, offset: float = 3.0) -> Tensor:
    return randn(count, 5, 4, 4) * randn(5, 4, 4, seed=1) + offset


def _moments(latents: Tensor, batch: int) -> LatentMoments:
    moments = LatentMoments()
    for start in range(0, len(latents), batch):
        moments.add(latents[start : start + batch])
    return moments


def _assert_same(one: LatentMoments, other: LatentMoments, relative: float = 1e-10) -> None:
    assert one.count == other.count
    for first, second in ((one.mean(), other.mean()), (one.var(), other.var())):
        assert first.dtype == torch.float64
        assert float((first - second).abs().max()) <= relative * float(second.abs().max())


def _stats(shape: tuple[int, int, int] = (2, 3, 3), **changes: Any) -> LatentStats:
    fields: dict[str, Any] = {"mean": randn(*shape), "var": randn(*shape, seed=1).square(), "encoder": "e"}
    return LatentStats(**{**fields, **changes})


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_batches_give_the_population_at_once(batch: int) -> None:
    latents = _latents()
    moments = _moments(latents, batch)
    mean, var = ORACLE.mean_and_var(latents.numpy())
    np.testing.assert_allclose(moments.mean().numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var().numpy(), var, rtol=1e-10)
    assert moments.count == 60


def test_order_does_not_matter() -> None:
    latents = _latents()
    shuffled = latents[torch.randperm(60, generator=torch.Generator().manual_seed(3))]
    _assert_same(_moments(shuffled, 11), _moments(latents, 7))


@pytest.mark.parametrize("cuts", [[30], [1, 2], [10, 11, 58]])
def test_shards_merge_to_the_whole(cuts: list[int]) -> None:
    latents = _latents()
    merged = LatentMoments()
    merged.merge(LatentMoments())
    for part in reversed(torch.tensor_split(latents, cuts)):
        merged.merge(_moments(part, 4))
    _assert_same(merged, _moments(latents, 60))


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second = _moments(_latents(), 8), _moments(_latents(offset=9.0), 8)
    before = second.var()
    first.merge(second)
    empty = LatentMoments()
    empty.merge(second)
    empty.add(_latents())
    assert torch.equal(second.var(), before)
    assert second.count == 60


def test_a_mean_large_beside_the_spread_costs_no_digits() -> None:
    latents = _latents(offset=0.0).double()
    _, var = ORACLE.mean_and_var(((latents + 1e6) - 1e6).numpy())
    np.testing.assert_allclose(_moments(latents + 1e6, 9).var().numpy(), var, rtol=1e-9)


def test_a_saved_state_goes_on_where_it_stopped() -> None:
    latents, file = _latents(), io.BytesIO()
    state: dict[str, Any] = _moments(latents[:20], 8).state()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        resumed = LatentMoments.from_state(arrays)
    resumed.add(latents[20:])
    straight = _moments(latents[:20], 8)
    straight.add(latents[20:])
    _assert_same(resumed, straight, relative=0.0)
    assert LatentMoments.from_state(LatentMoments().state()).count == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("x")}, "not a saved state"),
        ({"sum": np.zeros((2, 2, 2))}, "is damaged"),
        ({"squares": np.full((5, 4, 4), np.nan)}, "is damaged"),
        ({"count": np.array(-1)}, "is damaged"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LatentMoments.from_state({**_moments(_latents(), 60).state(), **change})


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(2, 5, 4), r"must be \[B, C, h, w\], got \[2, 5, 4\]"),
        (torch.zeros(2, 5, 4, 3), "the latents are 4 x 3, and RAE's are square"),
        (torch.zeros(2, 5, 2, 2), r"are \[5, 2, 2\] and the earlier ones were \[5, 4, 4\]"),
        (torch.full((2, 5, 4, 4), torch.nan), "2 of 2 latents hold NaN or infinity, the first is number 0"),
    ],
)
def test_latents_that_do_not_belong_are_refused_and_change_nothing(latents: Tensor, message: str) -> None:
    moments = _moments(_latents(), 60)
    with pytest.raises(DataError, match=message):
        moments.add(latents)
    _assert_same(moments, _moments(_latents(), 60), relative=0.0)


def test_shards_of_another_size_are_refused() -> None:
    moments = _moments(_latents(), 60)
    with pytest.raises(DataError, match=r"cannot merge statistics of \[5, 2, 2\] into statistics of \[5, 4, 4\]"):
        moments.merge(_moments(torch.zeros(1, 5, 2, 2), 1))


def test_nothing_has_no_mean() -> None:
    with pytest.raises(DataError, match="no latents were added"):
        LatentMoments().mean()


# --- of an encoder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flips", [True, False])
def test_an_encoders_statistics_are_those_of_its_latents(flips: bool) -> None:
    encoder, images = patch_encoder(), pictures(9)
    stats = compute_stats(encoder, images.split(4), data="nine pictures", flips=flips)
    latents = encoder.latents(images)
    if flips:
        latents = torch.cat([latents, encoder.latents(images.flip(-1))])
    mean, var = ORACLE.mean_and_var(latents.numpy())
    assert stats.mean is not None
    assert stats.var is not None
    np.testing.assert_allclose(stats.mean.numpy(), mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(stats.var.numpy(), var, rtol=1e-5, atol=1e-8)
    assert stats.num_pictures == 9
    assert stats.provenance["data"] == "nine pictures"
    assert stats.provenance["flips"] is flips
    stats.check_encoder(encoder)
    normalised = stats.normalise(latents)
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(6, 4, 4), rtol=0, atol=1e-5)
    wanted = torch.from_numpy(np.sqrt(var / (var + 1e-5))).float()
    torch.testing.assert_close(normalised.std(dim=0, correction=0), wanted, rtol=1e-4, atol=1e-4)


def test_batches_and_order_of_pictures_do_not_matter() -> None:
    encoder, images = patch_encoder(), pictures(10)
    one = compute_stats(encoder, images.split(3), data="x")
    other = compute_stats(encoder, images.flip(0).split(10), data="x")
    assert one.mean is not None
    assert other.mean is not None
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-6)  # the encoder is in float32


def test_progress_counts_pictures() -> None:
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int, **fields: float) -> None:
        seen.append((done, total))

    compute_stats(patch_encoder(), pictures(5).split(2), data="x", total=5, progress=note)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_latents_that_are_not_square_are_refused_before_any_work() -> None:
    with pytest.raises(DataError, match="the latents are 4 x 2, and RAE's are square"):
        compute_stats(patch_encoder(width=8), iter([]), data="x")


def test_another_encoder_tap_or_size_is_refused() -> None:
    encoder = patch_encoder()
    stats = compute_stats(encoder, [pictures(2)], data="x")
    for other in (patch_encoder(seed=1), patch_encoder(size=20)):
        with pytest.raises(ConfigError, match="of another encoder, tap or precision than 'stand-in/patch'"):
            stats.check_encoder(other)
    with pytest.raises(ConfigError, match="of another encoder, tap or precision"):
        stats.check_encoder(encoder, Tap(norm="none"))
    stats.check_encoder(encoder, Tap(norm="layernorm", prefix=True))  # latents never hold the prefix


def test_a_binding_to_the_wrong_shape_is_refused() -> None:
    encoder = patch_encoder()
    stats = _stats((6, 5, 5), encoder=latent_fingerprint(encoder))
    with pytest.raises(ConfigError, match=r"are \[6, 5, 5\], and the latents of 'stand-in/patch' are \[6, 4, 4\]"):
        stats.check_encoder(encoder)


# --- applied -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_names("rae_decoder"))
def test_normalised_latents_are_the_references(name: str) -> None:
    case = golden(name)
    tokens = case.tensors["out.encoder_tokens"]
    raw = tokens.transpose(1, 2).reshape(case.tensors["out.encode"].shape)
    mean, var = case.tensors["in.latent_mean"], case.tensors["in.latent_var"]
    stats = LatentStats(mean=mean, var=var, eps=case.config["eps"], encoder="e")
    assert_golden(stats.normalise(raw), case.tensors["out.encode"])
    assert_golden(stats.without_mean().normalise(raw), case.tensors["out.encode_nomean"])
    assert_golden(stats.denormalise(case.tensors["out.encode"]), raw)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_there_and_back_is_where_it_began(dtype: torch.dtype) -> None:
    stats, latents = _stats(), randn(4, 2, 3, 3, seed=5).to(dtype)
    again = stats.denormalise(stats.normalise(latents))
    assert again.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)  # half types are widened
    torch.testing.assert_close(again, latents.to(again.dtype), rtol=1e-5, atol=1e-5)


def test_a_missing_half_is_zero_or_one() -> None:
    latents = randn(1, 2, 3, 3)
    var = torch.full((2, 3, 3), 4.0)
    torch.testing.assert_close(_stats(mean=None, var=var, eps=0.0).normalise(latents), latents / 2)
    mean = torch.ones(2, 3, 3)
    torch.testing.assert_close(_stats(mean=mean, var=None).normalise(latents), (latents - 1) / (1 + 1e-5) ** 0.5)


def test_latents_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"latents must be \[B, 2, 3, 3\], got \[1, 2, 4, 4\]"):
        _stats().normalise(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None, "var": None}, "neither a mean nor a variance"),
        ({"mean": torch.zeros(2, 3, 4), "var": torch.ones(2, 3, 4)}, "the latents are 3 x 4, and RAE's are square"),
        ({"mean": torch.zeros(2, 2, 2)}, r"mean \[2, 2, 2\] and variance \[2, 3, 3\] differ in shape"),
        ({"var": -torch.ones(2, 3, 3)}, "a negative variance"),
        ({"eps": -1.0}, "a negative variance"),
        ({"var": torch.full((2, 3, 3), torch.inf)}, "NaN, infinite or whole numbers"),
        ({"mean": torch.zeros(2, 3, 3, dtype=torch.int64)}, "NaN, infinite or whole numbers"),
        ({"var": torch.zeros(2, 3, 3), "eps": 0.0}, "a variance is 0 and eps is 0"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _stats(**changes)


def test_digest_names_what_changes_a_latent() -> None:
    stats = _stats()
    assert stats.digest() == _stats(num_pictures=9, provenance={"data": "y"}).digest()
    others = [_stats(eps=1e-4), _stats(encoder="f"), stats.without_mean(), _stats(var=torch.ones(2, 3, 3))]
    assert len({stats.digest(), *(other.digest() for other in others)}) == 5
