"""Planted faults: each adapter here breaks one promise, and the check of that promise must say so.

The correct adapter is a transformers DINOv2 with registers and random weights, on a grid that is not square.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Self
from uuid import uuid4

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.lazy import require
from ovbench.encoders.base import EncoderInfo, Features, PreprocessSpec, Tap
from ovbench.encoders.modeling.frozen import FrozenEncoder, check_images, weights_digest
from ovbench.testing import check_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOCALITY = {"locality", "locality-llm", "locality-latents"}
PREFIX = 5  # class token and four registers


class Dino(FrozenEncoder):
    """A correct adapter of a tiny DINOv2 with registers, 4 x 6 patches."""

    declared_prefix = PREFIX
    dropout = 0.0

    def __init__(self) -> None:
        super().__init__()
        transformers = require("transformers")
        config = transformers.Dinov2WithRegistersConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            num_register_tokens=4,
            hidden_dropout_prob=self.dropout,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.dino = transformers.Dinov2WithRegistersModel(config)
        self.dino.layernorm.weight.data = torch.linspace(0.5, 2.0, 32)  # a learned norm, unlike one without affine
        digest = weights_digest(self.dino)
        info = EncoderInfo(
            name="dino/tiny",
            adapter_version=1,
            input=PreprocessSpec(size=(32, 48)),
            grid=(4, 6),
            dim=32,
            depth=3,
            num_prefix=self.declared_prefix,
            patch_px=8,
            mean=MEAN,
            std=STD,
            llm_tap=Tap(layer=-2),
            latent_tap=Tap(norm="layernorm", eps=1e-6),
            num_params=sum(p.numel() for p in self.dino.parameters()),
            num_params_frontend=0,
            weights_digest=digest,
            identity=fingerprint({"adapter": "dino", "weights": digest}),
        )
        self._seal(info, torch.device("cpu"))

    def guard(self, x: Tensor) -> Tensor:
        check_images(x, self._info.input.size)
        return x

    def normalise(self, x: Tensor) -> Tensor:
        return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)

    def layer(self, layer: int) -> int:
        if not -4 <= layer <= 3:
            raise ConfigError(f"the tap layer {layer} does not exist", where="tap", fix="use -4 … 3")
        return layer % 4

    def grid_of(self, h: Tensor) -> Tensor:
        return h[:, PREFIX:]

    def layernorm(self, h: Tensor, normed: Tensor, eps: float) -> Tensor:
        del normed
        return F.layer_norm(h, h.shape[-1:], eps=eps)

    @torch.no_grad()
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        tap = tap or Tap()
        out = self.dino(self.normalise(self.guard(images_01)), output_hidden_states=True)
        h = out.hidden_states[3 if tap.layer == "final" else self.layer(tap.layer)]
        if tap.norm == "layernorm":
            h = self.layernorm(h, out.last_hidden_state, tap.eps or 1e-6)
        elif tap.norm == "native" and tap.layer == "final":
            h = out.last_hidden_state
        prefix = h[:, : self.declared_prefix] if tap.prefix else None
        return Features(tokens=self.grid_of(h), prefix=prefix, pooled=None, grid=self._info.grid, tap=tap)

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        features = self.features(images_01, tap or self._info.llm_tap)
        return features.tokens if features.prefix is None else torch.cat([features.prefix, features.tokens], dim=1)

    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        if resize:
            images_01 = F.interpolate(images_01, size=self._info.input.size, mode="bicubic").clamp(0, 1)
        tokens = self.features(images_01, tap or self._info.latent_tap).tokens
        return tokens.float().transpose(1, 2).reshape(len(tokens), -1, *self._info.grid).contiguous()


# ---- order of the tokens


class FirstPatchDropped(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return torch.cat([h[:, PREFIX + 1 :], h[:, -1:]], dim=1)


class GridTransposed(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return h[:, PREFIX:].unflatten(1, (4, 6)).transpose(1, 2).flatten(1, 2)


class RowsReversed(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return h[:, PREFIX:].unflatten(1, (4, 6)).flip(1).flatten(1, 2)


class TokensShuffled(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return h[:, PREFIX:][:, torch.randperm(24, generator=torch.Generator().manual_seed(3))]


class RegisterKept(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return h[:, PREFIX - 1 : -1]


class RegisterUndeclared(RegisterKept):
    declared_prefix = PREFIX - 1


class LatentsTransposed(Dino):
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        latents = super().latents(images_01, tap, resize=resize)
        return latents.flatten(2).unflatten(2, (6, 4)).transpose(2, 3).contiguous()


class LatentsNotTransposed(Dino):
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        latents = super().latents(images_01, tap, resize=resize)
        return latents.flatten(2).transpose(1, 2).contiguous().reshape(latents.shape)


# ---- values


class NormalisedTwice(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return super().normalise(super().normalise(x))


class NotNormalised(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return x


class NormalisedAsSiglip(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return x * 2 - 1


class OtherStatistics(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return (x - 0.25) / 0.125


class ChannelsReversed(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return super().normalise(x).flip(1)


class NoGuard(Dino):
    def guard(self, x: Tensor) -> Tensor:
        return x


class Clamped(Dino):
    def guard(self, x: Tensor) -> Tensor:
        x = x.clamp(0.0, 1.0)
        check_images(x, self._info.input.size)
        return x


class GuardAsserts(Dino):
    def guard(self, x: Tensor) -> Tensor:
        assert x.ndim == 4
        assert x.numel()
        assert tuple(x.shape[1:]) == (3, 32, 48)
        assert bool((x >= 0).all())
        assert bool((x <= 1).all())
        return x


class PrepareNormalises(Dino):
    def prepare(self, image: Image.Image) -> Tensor:
        return self.normalise(super().prepare(image)[None])[0]


class LatentsOfAnotherTap(Dino):
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        return super().latents(images_01, tap or Tap(), resize=resize)


class LlmTokensOfAnotherTap(Dino):
    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        return super().llm_tokens(images_01, tap or Tap(layer=-1))


class LayersOffByOne(Dino):
    def layer(self, layer: int) -> int:
        return super().layer(layer) if layer >= 0 else max(0, super().layer(layer) - 1)


class LayersClipped(Dino):
    def layer(self, layer: int) -> int:
        return min(max(layer % 4 if layer < 0 else layer, 0), 3)


class LayerNormOnLearnedNorm(Dino):
    def layernorm(self, h: Tensor, normed: Tensor, eps: float) -> Tensor:
        return super().layernorm(normed, normed, eps)


# ---- state


class DropoutModuleOn(Dino):
    dropout = 0.2

    def __init__(self) -> None:
        super().__init__()
        nn.Module.train(self.dino, True)


class DropoutFunctionOn(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        return F.dropout(super().grid_of(h), 0.2, training=True)


class TrainHonoured(Dino):
    dropout = 0.2

    def train(self, mode: bool = True) -> Self:
        nn.Module.train(self, mode)
        return self


class OneTrainable(Dino):
    def __init__(self) -> None:
        super().__init__()
        self.dino.layernorm.weight.requires_grad_(True)


class BatchStatistics(Dino):
    def grid_of(self, h: Tensor) -> Tensor:
        tokens = super().grid_of(h)
        return (tokens - tokens.mean(0, keepdim=True)) / (tokens.var(0, unbiased=False, keepdim=True) + 1.0).sqrt()


class BatchNormTraining(Dino):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(32).train().requires_grad_(False)

    def grid_of(self, h: Tensor) -> Tensor:
        return self.norm(super().grid_of(h).transpose(1, 2)).transpose(1, 2)


class CountsCalls(Dino):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def grid_of(self, h: Tensor) -> Tensor:
        self.calls += 1
        return super().grid_of(h)


class InferenceMode(Dino):
    @torch.inference_mode()
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        return super().features(images_01, tap)


class WithGradient(Dino):
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        return Dino.features.__wrapped__(self, images_01, tap)  # type: ignore[attr-defined]


class WritesIntoPictures(Dino):
    def normalise(self, x: Tensor) -> Tensor:
        return super().normalise(x.mul_(0.999))


# ---- identity


class FingerprintOfTheBuild(Dino):
    def __init__(self) -> None:
        super().__init__()
        self._info = replace(self._info, identity=uuid4().hex)


class WrongGrid(Dino):
    def __init__(self) -> None:
        super().__init__()
        self._info = replace(self._info, grid=(6, 4))


FAULTS: list[tuple[type, set[str], str, str]] = [
    # adapter, every check that fails, the one whose text is looked at, what it says
    (FirstPatchDropped, LOCALITY, "locality", r"shifted by -1: the first patch is dropped"),
    (GridTransposed, LOCALITY, "locality", "transposed place: rows and columns"),
    (RowsReversed, LOCALITY, "locality-llm", "rows of the grid are in reverse"),
    (TokensShuffled, LOCALITY, "locality", "not in raster order"),
    (RegisterKept, LOCALITY, "locality", r"shifted by 1: one prefix token \(class or register\) is kept"),
    (
        RegisterUndeclared,
        {"sequence", *LOCALITY},
        "sequence",
        r"read 29 tokens, declared are 4 \+ 24 = 28.*not declared",
    ),
    (LatentsTransposed, {"latents", "locality-latents"}, "latents", "rows and columns of the grid are transposed"),
    (LatentsNotTransposed, {"latents", "locality-latents"}, "latents", "without transposing channels"),
    (NormalisedTwice, {"normalisation"}, "normalisation", "normalised twice"),
    (NotNormalised, {"normalisation"}, "normalisation", "not normalised at all"),
    (NormalisedAsSiglip, {"normalisation"}, "normalisation", r"reads \[-1, 1\]"),
    (OtherStatistics, {"normalisation"}, "normalisation", r"mean \(0.25, 0.25, 0.25\) and std \(0.125, 0.125, 0.125\)"),
    (ChannelsReversed, {"normalisation"}, "normalisation", "BGR"),
    (NoGuard, {"guard"}, "guard", "values of 2.0 is accepted"),
    (Clamped, {"guard"}, "guard", "clamped silently"),
    (GuardAsserts, {"guard"}, "guard", "raises AssertionError instead of an OvbenchError"),
    (PrepareNormalises, {"prepare"}, "prepare", "mean and std belong into features"),
    (LatentsOfAnotherTap, {"latents"}, "latents", r"another tap \(final\)"),
    (LlmTokensOfAnotherTap, {"llm_tokens"}, "llm_tokens", "differ by .* from features at the declared llm_tap"),
    (LayersOffByOne, {"taps"}, "taps", "layers are counted wrongly"),
    (LayersClipped, {"taps"}, "taps", "layer 4 is accepted"),
    (LayerNormOnLearnedNorm, {"taps"}, "taps", "a learned norm is under it"),
    (TrainHonoured, {"train"}, "train", r"train\(\) switches \d+ module\(s\) to training mode"),
    (OneTrainable, {"frozen", "train"}, "frozen", r"1 parameter\(s\) require grad: 'dino.layernorm.weight'"),
    (InferenceMode, {"autograd"}, "autograd", "torch.no_grad instead of torch.inference_mode"),
    (WithGradient, {"autograd"}, "autograd", "does not run under torch.no_grad"),
    (FingerprintOfTheBuild, {"fingerprint-builds"}, "fingerprint-builds", "two builds of the same encoder differ"),
    (CountsCalls, {"state"}, "state", "changed weights or buffers"),
]
# These spoil most comparisons: the check that names them must be among those that fail.
WIDE: list[tuple[type, str, str]] = [
    (DropoutModuleOn, "frozen", r"dropout is on in \d+ module"),
    (DropoutModuleOn, "determinism", "global generator: dropout is on"),
    (DropoutFunctionOn, "determinism", "global generator: dropout is on"),
    (BatchStatistics, "batch", "statistics of the batch are used"),
    (BatchNormTraining, "batch", "statistics of the batch are used"),
    (BatchNormTraining, "frozen", "1 module.* in training mode: 'norm'"),
    (BatchNormTraining, "state", "changed weights or buffers"),
    (WritesIntoPictures, "autograd", "changes the pictures that it is given, in place"),
    (WrongGrid, "info", "holds 4 x 6 patches of 8 px, and the declared grid is 6 x 4"),
]


def test_the_correct_adapter_passes() -> None:
    report = check_encoder(Dino)
    report.raise_if_failed()
    assert len(report.results) == 25


def test_everything_that_can_be_looked_at_in_a_module_is_looked_at() -> None:
    skipped = {result.name for result in check_encoder(Dino).results if result.outcome == "skipped"}
    assert skipped == {"decode", "random-weights"}


@pytest.mark.parametrize(("adapter", "failing", "check", "text"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_planted_fault_fails_its_checks_alone(adapter: type, failing: set[str], check: str, text: str) -> None:
    report = check_encoder(adapter)
    assert {result.name for result in report.failures} == failing, str(report)
    assert re.search(text, report[check].detail), report[check].detail


@pytest.mark.parametrize(("adapter", "check", "text"), WIDE, ids=[f"{fault[0].__name__}-{fault[1]}" for fault in WIDE])
def test_a_fault_that_spoils_much_is_named_by_its_own_check(adapter: type, check: str, text: str) -> None:
    report = check_encoder(adapter)
    assert report[check].outcome == "failed", str(report)
    assert re.search(text, report[check].detail), report[check].detail
