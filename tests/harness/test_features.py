"""Visual tokens by image id: the same bits from the cache and on demand, and the decision between the two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from ovbench.harness.feature_cache import FeatureCache, Throughput
from ovbench.harness.feature_decision import Decision, decide
from ovbench.harness.features import Features, namespace_inputs

IDS = tuple(f"i{number}" for number in range(7))
ROOMY = 2**30


def image(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[1:])).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path, max_bytes=ROOMY)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def features(encoder: Encoder, cache: FeatureCache | None, ids: Sequence[str] = IDS, **settings: Any) -> Features:
    return Features(encoder, ids, image, cache, **{"num_reads": 100.0, "dtype": "float32", **settings})


def test_rows_come_back_by_id_in_any_order_and_more_than_once(encoder: Encoder, cache: FeatureCache) -> None:
    source = features(encoder, cache, batch_size=3)
    source.fill()
    assert source.bypassed is None
    assert (source.dim, source.num_tokens) == (128, 64)
    found = source(["i5", "i0", "i5"])
    assert found.dtype == torch.float32
    for name, tokens in zip(["i5", "i0", "i5"], found, strict=True):
        expected = encoder.llm_tokens(encoder.prepare(Image.fromarray(image(name)))[None])[0]
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_cache_gives_back_the_bits_that_were_computed_whatever_the_shards(
    encoder: Encoder, tmp_path: Path, dtype: str
) -> None:
    """The oracle encodes all pictures by hand, in batches of the same size."""
    pictures = [encoder.prepare(Image.fromarray(image(name))) for name in IDS]
    padded = torch.stack([*pictures, pictures[-1], pictures[-1]])
    tokens = torch.cat([encoder.llm_tokens(padded[start : start + 3]) for start in (0, 3, 6)])[:7]
    expected = tokens.to(getattr(torch, dtype)).float()
    for shard_bytes in (1, 3 * 64 * 128 * 4, ROOMY):
        cache = FeatureCache(tmp_path / str(shard_bytes), max_bytes=ROOMY, shard_bytes=shard_bytes)
        source = features(encoder, cache, batch_size=3, dtype=dtype)
        source.fill()
        again = features(encoder, cache, digests=source.digests, dtype=dtype)
        assert again.missing() == 0
        assert torch.equal(again(IDS), expected)
        assert torch.equal(again(IDS[::-1]), expected.flip(0))
        assert again.num_encoded == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["random", "ovis3"])
def test_on_demand_gives_the_same_bits_as_the_cache(tmp_path: Path, name: str, dtype: str) -> None:
    encoder = load_encoder(name)
    cached = features(encoder, FeatureCache(tmp_path, max_bytes=ROOMY), batch_size=4, dtype=dtype)
    cached.fill()
    demanded = features(encoder, None, batch_size=4, dtype=dtype)
    assert cached.bypassed is None
    assert demanded.bypassed == "the feature cache is switched off"
    assert (demanded.dim, demanded.num_tokens) == (cached.dim, cached.num_tokens)
    for ids in (IDS, ("i3",), ("i6", "i1", "i6"), IDS[::-1]):
        assert torch.equal(demanded(ids), cached(ids))


def test_what_is_asked_again_at_once_is_not_computed_again(encoder: Encoder) -> None:
    source = features(encoder, None)
    everything = source(IDS)
    assert torch.equal(source(["i3", "i5"]), everything[[3, 5]])
    assert source.num_encoded == 7
    assert torch.equal(source(["i3", "i0"]), everything[[3, 0]])
    assert source.num_encoded == 8


def test_a_picture_is_encoded_once_whatever_its_name_and_set(encoder: Encoder, cache: FeatureCache) -> None:
    first = features(encoder, cache)
    first.fill()
    second = Features(encoder, ("x2", "i2", "i9"), lambda name: image(f"i{name[1:]}"), cache, dtype="float32")
    second.fill()
    assert (first.num_encoded, second.num_encoded) == (7, 1)
    assert torch.equal(second(["x2"]), first(["i2"]))


def test_filling_may_begin_anywhere_and_gives_the_same(encoder: Encoder, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    found: list[torch.Tensor] = []
    for start in (0.0, 0.5):
        asked: list[str] = []
        source = Features(
            encoder,
            IDS,
            lambda name, asked=asked: asked.append(name) or image(name),
            FeatureCache(tmp_path / str(start), max_bytes=ROOMY),
            dtype="float32",
            num_reads=100.0,
            batch_size=2,
            start=start,
        )
        source.fill()
        seen.append(asked)
        found.append(source(IDS))
    assert seen == [list(IDS), [*IDS[3:], *IDS[:3]]]
    assert torch.equal(found[0], found[1])


def test_processes_that_begin_apart_share_the_encoding(encoder: Encoder, tmp_path: Path) -> None:
    """The second one is at its end when the first one is in the middle: neither makes what the other has stored."""
    ids = tuple(f"i{number}" for number in range(16))
    cache = FeatureCache(tmp_path, max_bytes=ROOMY, shard_bytes=1)  # stored after every batch
    first, second = (features(encoder, cache, ids, batch_size=2, start=rank / 2) for rank in (0, 1))
    order: list[str] = []

    def first_goes(done: int, total: int, **fields: float) -> None:
        order.append(f"first {done}")

    def second_is_halfway(done: int, total: int, **fields: float) -> None:
        order.append(f"second {done}")
        if done == 8:
            first.fill(first_goes)

    second.fill(second_is_halfway)
    assert order.index("first 16") < order.index("second 16")
    assert (first.num_encoded, second.num_encoded) == (8, 8)
    assert torch.equal(first(ids), second(ids))


def test_with_known_digests_no_picture_is_loaded(encoder: Encoder, cache: FeatureCache) -> None:
    first = features(encoder, cache)
    first.fill()

    def refuse(name: str) -> np.ndarray:
        raise AssertionError(f"{name} was loaded")

    again = Features(encoder, IDS, refuse, cache, dtype="float32", digests=first.digests)
    again.fill()
    assert torch.equal(again(IDS), first(IDS))


def test_another_tap_type_or_preprocessing_is_another_namespace(encoder: Encoder, cache: FeatureCache) -> None:
    plain = features(encoder, cache)
    keys = {plain.namespace}
    keys.add(features(encoder, cache, dtype="bfloat16").namespace)
    keys.add(features(encoder, cache, tap=Tap(layer=-2)).namespace)
    keys.add(features(load_encoder("clip"), cache).namespace)
    inputs = namespace_inputs(encoder, None, "float32")
    assert cache.open(inputs).key == plain.namespace
    inputs["preprocess"]["resample"] = "bilinear" if inputs["preprocess"]["resample"] == "bicubic" else "bicubic"
    keys.add(cache.open(inputs).key)
    assert len(keys) == 5


def test_no_tap_is_the_encoders_own(encoder: Encoder, cache: FeatureCache) -> None:
    assert features(encoder, cache).namespace == features(encoder, cache, tap=encoder.info.llm_tap).namespace


def test_progress_ends_at_the_number_of_images(encoder: Encoder, cache: FeatureCache) -> None:
    seen: list[tuple[int, int]] = []
    features(encoder, cache, batch_size=3).fill(lambda done, total, **_: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    seen.clear()
    features(encoder, cache).fill(lambda done, total, **_: seen.append((done, total)))
    assert seen == [(7, 7)]


def test_features_that_are_nan_are_refused(
    encoder: Encoder, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TokenEncoder, images: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
        return torch.full((len(images), 64, 128), float("nan"))

    monkeypatch.setattr(TokenEncoder, "llm_tokens", broken)
    with pytest.raises(DataError, match="NaN"):
        features(encoder, cache).fill()
    with pytest.raises(DataError, match="NaN"):
        features(encoder, None)(["i0"])


def test_values_that_the_storage_type_cannot_hold_are_refused(
    encoder: Encoder, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(self: TokenEncoder, images: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
        return torch.full((len(images), 64, 128), 1e5)

    monkeypatch.setattr(TokenEncoder, "llm_tokens", large)
    with pytest.raises(DataError, match="infinite"):
        features(encoder, cache, dtype="float16").fill()


def test_an_unknown_image_or_type_is_an_error(encoder: Encoder, cache: FeatureCache) -> None:
    with pytest.raises(DataError, match="no image 'i99'"):
        features(encoder, cache)(["i99"])
    with pytest.raises(ConfigError, match="unknown feature type 'int8'"):
        features(encoder, cache, dtype="int8")


def test_a_picture_of_another_type_is_refused(encoder: Encoder, cache: FeatureCache) -> None:
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\], got float64 \[4, 4, 3\]"):
        Features(encoder, ("a",), lambda name: np.zeros((4, 4, 3)), cache).fill()


FAST = Throughput(write_bytes_s=1e9, read_bytes_s=1e9)
SLOW = Throughput(write_bytes_s=1e5, read_bytes_s=1e5)


@pytest.mark.parametrize(
    ("changed", "cache", "reason"),
    [
        ({}, True, "0.53 s with a cache, 1 s without, each image being read 2 times"),
        ({"num_reads": 1.0}, True, "without"),  # a tenth is spent for later runs
        ({"num_reads": 0.5}, False, "does not pay"),  # half of the images will never be asked for
        ({"num_reads": 0.0}, False, "does not pay"),
        ({"speed": SLOW}, False, "does not pay: 300 s with a cache, 1 s without"),
        ({"speed": SLOW, "num_reads": 200.0, "encode_s": 0.2}, True, "without"),
        ({"encode_s": 1e-6}, False, "does not pay"),  # a front end that is faster than the disk
        ({"room_bytes": 9_999_999}, False, "9.54 MB of features do not fit into the 9.54 MB"),
        ({"room_bytes": 10_000_000}, True, "without"),
        ({"room_bytes": 0, "num_images": 0}, True, "0 s with a cache"),
        ({"image_bytes": 1_180_000, "num_images": 558_000, "room_bytes": 20 * 2**30}, False, "613 GB of features"),
    ],
)
def test_the_decision(changed: dict[str, Any], cache: bool, reason: str) -> None:
    case: dict[str, Any] = {
        "image_bytes": 10_000,
        "num_images": 1000,
        "num_reads": 2.0,
        "encode_s": 5e-4,
        "speed": FAST,
        "room_bytes": ROOMY,
    }
    found = decide(**{**case, **changed})
    assert found.cache is cache
    assert reason in found.reason
    assert found.fits is ("do not fit" not in found.reason)


def test_what_does_not_pay_is_not_stored_and_says_why(
    encoder: Encoder, cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ids = tuple(f"i{number}" for number in range(20))
    source = features(encoder, cache, ids, num_reads=0.1, batch_size=4)
    source.fill()
    assert source.num_encoded == 8  # what it took to know
    assert source.bypassed is not None
    assert "a cache does not pay" in source.bypassed
    assert "computed when they are asked for: a cache does not pay" in caplog.text
    assert cache.spaces()[0].num_images == 0
    assert torch.equal(source(ids), features(encoder, None, ids, batch_size=4)(ids))


def test_a_set_that_does_not_fit_is_computed_on_demand_with_a_warning(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = features(encoder, FeatureCache(tmp_path, max_bytes=100_000))
    source.fill()
    assert source.bypassed is not None
    assert "do not fit" in source.bypassed
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert torch.equal(source(IDS), features(encoder, None)(IDS))
    assert source.decision == Decision(cache=False, reason=source.bypassed, fits=False)
