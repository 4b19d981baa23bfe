"""Planted faults in an adapter that is a plain object and no torch module, and the reading of what moved where.

The correct adapter holds a miniature encoder and passes calls on, as a third party may write one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ovbench.encoders.base import Encoder, EncoderInfo, Features, Tap
from ovbench.encoders.modeling.contract.locality import Movement, choose_places, explain
from ovbench.encoders.modeling.frozen import check_images
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from ovbench.testing import check_encoder

LOCALITY = {"locality", "locality-llm", "locality-latents"}


class Plain:
    """A correct adapter that is no module: it holds another encoder and passes calls on."""

    def __init__(self, spec: str = "clip/mini") -> None:
        self.inner = load_encoder(spec)

    @property
    def info(self) -> EncoderInfo:
        return self.inner.info

    def prepare(self, image: Image.Image) -> Tensor:
        return self.inner.prepare(image)

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        return self.inner.features(images_01, tap)

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        features = self.features(images_01, tap or self.info.llm_tap)
        return features.tokens if features.prefix is None else torch.cat([features.prefix, features.tokens], dim=1)

    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        del resize
        tokens = self.features(images_01, tap or self.info.latent_tap).tokens
        return tokens.float().transpose(1, 2).reshape(len(tokens), -1, *self.info.grid).contiguous()

    def fingerprint(self, tap: Tap | None = None) -> str:
        return self.inner.fingerprint(tap)


class PlainVae(Plain):
    """A correct adapter of a VAE, which decodes."""

    def __init__(self) -> None:
        super().__init__("vae/mini")

    def decode(self, latents: Tensor) -> Tensor:
        inner: Any = self.inner
        return inner.decode(latents)


class ClassTokenAsPatch(Plain):
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        wanted = tap or Tap()
        found = self.inner.features(images_01, replace(wanted, prefix=True))
        assert found.prefix is not None
        tokens = torch.cat([found.prefix, found.tokens[:, :-1]], dim=1)
        return replace(found, tokens=tokens, prefix=found.prefix if wanted.prefix else None, tap=wanted)


class SquareGridTransposed(Plain):
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        found = self.inner.features(images_01, tap)
        return replace(found, tokens=found.tokens.unflatten(1, (8, 8)).transpose(1, 2).flatten(1, 2))


class SquareLatentsTransposed(Plain):
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        return super().latents(images_01, tap, resize=resize).transpose(2, 3).contiguous()


class VaeNormalisedTwice(Plain):
    def __init__(self) -> None:
        super().__init__("ovis3/mini")
        assert isinstance(self.inner, TokenEncoder)
        vae = self.inner.frontend
        assert vae is not None
        encode = vae.encode
        vae.encode = lambda images_pm1: encode(images_pm1 * 2.0 - 1.0)


class DecodesToPm1(PlainVae):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) * 2.0 - 1.0


class DecodesToInfinity(PlainVae):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) / 0.0


class DecodeMissing(Plain):
    def __init__(self) -> None:
        super().__init__("vae/mini")


class FingerprintWithoutTap(Plain):
    def fingerprint(self, tap: Tap | None = None) -> str:
        return self.inner.fingerprint()


class FingerprintConstant(Plain):
    def fingerprint(self, tap: Tap | None = None) -> str:
        return "constant"


class FingerprintUnstable(Plain):
    def fingerprint(self, tap: Tap | None = None) -> str:
        return super().fingerprint(tap) + uuid4().hex


class PrepareBgr(Plain):
    def prepare(self, image: Image.Image) -> Tensor:
        return super().prepare(image).flip(0)


class LatentsInBfloat16(Plain):
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        return super().latents(images_01, tap, resize=resize).bfloat16()


class LinearPatches(Plain):
    """A correct adapter whose patches are embedded by a linear layer, and that has no blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(192, 32).requires_grad_(False).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed.reset_parameters()
        tap = Tap()
        self.facts = replace(self.inner.info, name="linear", dim=32, depth=0, num_prefix=0, llm_tap=tap, latent_tap=tap)

    @property
    def info(self) -> EncoderInfo:
        return self.facts

    def normalise(self, x: Tensor) -> Tensor:
        return x * 2.0 - 1.0

    @torch.no_grad()
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        check_images(images_01, (64, 64))
        patches = F.unfold(self.normalise(images_01), 8, stride=8).transpose(1, 2)
        return Features(tokens=self.embed(patches), prefix=None, pooled=None, grid=(8, 8), tap=tap or Tap())


class LinearNormalisedTwice(LinearPatches):
    def normalise(self, x: Tensor) -> Tensor:
        return super().normalise(super().normalise(x))


class LinearOtherwiseNormalised(LinearPatches):
    def normalise(self, x: Tensor) -> Tensor:
        return x.square()


class NormalisesInsideAModule(Plain):
    """A correct adapter in which a module of its own, and not the encoder, makes [-1, 1] of [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        assert isinstance(self.inner, TokenEncoder)
        vit = self.inner.model
        self.to_pm1 = nn.BatchNorm2d(3, eps=0.0, momentum=0.0).requires_grad_(False).eval()
        assert self.to_pm1.running_mean is not None
        assert self.to_pm1.running_var is not None
        self.to_pm1.running_mean.fill_(0.5)
        self.to_pm1.running_var.fill_(0.25)
        vit.register_forward_pre_hook(lambda module, inputs: (self.to_pm1((inputs[0] + 1.0) / 2.0), *inputs[1:]))


class OnePatchTooFew(Plain):
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        found = self.inner.features(images_01, tap)
        return replace(found, tokens=found.tokens[:, 1:])


class ClassTokenTooMany(Plain):
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        found = self.inner.features(images_01, replace(tap or Tap(), prefix=True))
        assert found.prefix is not None
        return replace(found, tokens=torch.cat([found.prefix, found.tokens], dim=1))


FAULTS: list[tuple[type, set[str], str, str]] = [
    # adapter, every check that fails, the one whose text is looked at, what it says
    (ClassTokenAsPatch, LOCALITY, "locality-llm", r"shifted by 1: one prefix token \(class or register\) is kept"),
    (SquareGridTransposed, LOCALITY, "locality-latents", "transposed place: rows and columns"),
    (SquareLatentsTransposed, {"latents", "locality-latents"}, "locality-latents", "transposed place"),
    (VaeNormalisedTwice, {"normalisation"}, "normalisation", "normalised twice"),
    (DecodesToPm1, {"decode"}, "decode", r"nearer to \[-1, 1\]"),
    (DecodesToInfinity, {"decode"}, "decode", "NaN or infinite"),
    (DecodeMissing, {"decode"}, "decode", "there is no method decode"),
    (FingerprintWithoutTap, {"fingerprint"}, "fingerprint", "does not depend on the tap"),
    (FingerprintConstant, {"fingerprint"}, "fingerprint", "does not depend on the tap"),
    (FingerprintUnstable, {"fingerprint", "fingerprint-builds"}, "fingerprint", "two calls give two values"),
    (PrepareBgr, {"prepare"}, "prepare", "BGR"),
    (LatentsInBfloat16, {"latents"}, "latents", "bfloat16, always float32"),
    (LinearNormalisedTwice, {"normalisation"}, "normalisation", "'embed' does not read .*normalised twice"),
    (LinearOtherwiseNormalised, {"normalisation"}, "normalisation", "'embed' does not read .*largest difference"),
]


@pytest.mark.parametrize(
    "factory", [Plain, partial(Plain, "ovis3/mini"), PlainVae, LinearPatches, NormalisesInsideAModule]
)
def test_a_correct_adapter_passes(factory: Callable[[], Encoder]) -> None:
    check_encoder(factory).raise_if_failed()


def test_normalisation_is_read_at_a_linear_embedding_and_behind_a_module_that_normalises() -> None:
    for factory, name in ((LinearPatches, "embed"), (NormalisesInsideAModule, "inner.model.conv1")):
        result = check_encoder(factory)["normalisation"]
        assert (result.outcome, result.detail.split("'")[1]) == ("passed", name)


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        (OnePatchTooFew, r"\[4, 63, 128\], declared are \[4, 64, 128\]: 1 too few, patches are dropped"),
        (ClassTokenTooMany, r"\[4, 65, 128\], declared .*: 1 too many, a class or register token is kept"),
    ],
)
def test_a_wrong_count_of_tokens_names_what_is_lost_or_kept(adapter: type, text: str) -> None:
    report = check_encoder(adapter)
    assert report["features"].outcome == "failed"
    assert re.search(text, report["features"].detail), report["features"].detail


class Drifts(Plain):
    """Keeps a state: every call adds a little more to the tokens."""

    calls = 0

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        found = self.inner.features(images_01, tap)
        self.calls += 1
        return replace(found, tokens=found.tokens + 1e-3 * self.calls)


def test_a_state_between_calls_is_told_from_a_random_draw() -> None:
    result = check_encoder(Drifts)["determinism"]
    assert result.outcome == "failed"
    assert result.detail.endswith(": a state is kept between calls")


def test_modules_inside_a_plain_object_are_looked_at_and_its_train_is_not() -> None:
    skipped = {result.name for result in check_encoder(Plain).results if result.outcome == "skipped"}
    assert skipped == {"resize", "decode", "train", "random-weights"}


class Hidden(Plain):
    """Shows no module: its network is held by a function, as one behind a server is."""

    def __init__(self) -> None:
        inner = load_encoder("clip/mini")
        self.reach = lambda: inner

    @property
    def inner(self) -> Encoder:
        return self.reach()


def test_what_cannot_be_seen_is_skipped_with_the_reason() -> None:
    report = check_encoder(Hidden)
    report.raise_if_failed()
    for name in ("sequence", "normalisation", "frozen", "state"):
        assert report[name].outcome == "skipped"
        assert "shows no torch module" in report[name].detail


@pytest.mark.parametrize(("adapter", "failing", "check", "text"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_planted_fault_fails_its_checks_alone(adapter: type, failing: set[str], check: str, text: str) -> None:
    report = check_encoder(adapter)
    assert {result.name for result in report.failures} == failing, str(report)
    assert re.search(text, report[check].detail), report[check].detail


def _movement(rule: Callable[[int, int], int], grid: tuple[int, int], wrong: int) -> Movement:
    """Every place moves the token that `rule` says, but for the first `wrong`, which move one at random."""
    places = choose_places(grid, seed=0)
    moved: list[int | None] = [rule(row, column) for row, column in places]
    generator = torch.Generator().manual_seed(0)
    moved[:wrong] = torch.randint(0, grid[0] * grid[1], (wrong,), generator=generator).tolist()
    return Movement(grid=grid, places=places, moved=moved)


@pytest.mark.parametrize("grid", [(8, 8), (27, 27), (3, 11), (1, 5), (2, 2)])
def test_places_are_distinct_hold_the_corners_and_leave_the_diagonal(grid: tuple[int, int]) -> None:
    rows, columns = grid
    places = choose_places(grid, seed=4)
    assert len(set(places)) == len(places) == min(12, len(places))
    assert {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)} <= set(places)
    assert sum(row == column for row, column in places) <= 2
    assert len(places) == 12 or rows * columns < 20
    assert places == choose_places(grid, seed=4)


def test_a_clear_majority_passes_though_some_places_disagree() -> None:
    movement = _movement(lambda row, column: row * 9 + column, (9, 9), wrong=4)
    assert explain(movement) == ""
    assert movement.own == pytest.approx(8 / 12)


def test_the_fault_is_named_though_some_places_disagree() -> None:
    assert "swapped" in explain(_movement(lambda row, column: column * 9 + row, (9, 9), wrong=4))
    assert "shifted by -3: the first 3 patches are" in explain(_movement(lambda r, c: r * 9 + c - 3, (9, 9), wrong=3))


def test_a_movement_without_an_order_is_not_given_a_name() -> None:
    assert explain(_movement(lambda row, column: 0, (9, 9), wrong=12)) == ""


class HalfStill(Plain):
    """Tokens in order, half of which hardly see the picture: nothing can be concluded."""

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        tokens = super().llm_tokens(images_01, tap).clone()
        for row, column in choose_places((8, 8), seed=0)[:7]:
            tokens[:, row * 8 + column] = 1.0
        return tokens


def test_what_cannot_be_decided_is_skipped_and_not_passed() -> None:
    result = check_encoder(HalfStill)["locality-llm"]
    assert result.outcome == "skipped"
    assert result.detail.startswith("not conclusive: at 5 of 12 places")
