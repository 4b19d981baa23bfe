"""Each mistake to `ovbench gen-fid`: what, where and fix on stderr, exit code 2, no training begun and no file lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.registry import load_encoder
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import decoder_config
from ovbench.harness.generation.latent_stats import compute_stats
from ovbench.harness.generation.stats_files import save_stats
from tests.end_to_end.gen_fid import NETWORK, SPEC, Parts, command, write_network, write_parts

SMOKE = ("gen-fid", "-e", "clip", "-p", "mini-smoke", "-n", "16")
PAPER = ("gen-fid", "-e", "dinov2/small?weights=random:0", "-p", "rae-imagenet256-proxy")
Refused = Callable[..., str]


class _Code:
    """Pickles to a call of a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch code-was-run",)


def _decoder(path: Path, **changes: int) -> None:
    config = decoder_config("mini", **{"latent_dim": 128, "num_patches": 16, "patch_px": 8, **changes})
    torch.save(seeded(lambda: ViTDecoder(config), 0).state_dict(), path)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Good weights, and beside them every kind of bad ones."""
    made = write_parts(tmp_path_factory.mktemp("parts"))
    folder = made.folder
    write_network(folder, "no-null", 3, class_dropout_prob=0.0)
    write_network(folder, "wide", 3, hidden_size=[48, 128])
    write_network(folder, "classes", 3, num_classes=10)
    write_network(folder, "latents", 3, in_channels=64)
    _decoder(folder / "narrow.pt", latent_dim=64)
    _decoder(folder / "large.pt", patch_px=16)
    for name, shape in (("rows", (128, 4, 5)), ("grid", (128, 8, 8)), ("channels", (64, 4, 4))):
        torch.save({"mean": None, "var": torch.ones(shape)}, folder / f"stat-{name}.pt")
    other = load_encoder("siglip/mini?size=32")
    save_stats(folder / "other.npz", compute_stats(other, [torch.rand(4, 3, 32, 32)], data="noise"))
    own = load_encoder(SPEC)
    tap = own.info.latent_tap
    earlier = next(layer for layer in (0, 1) if layer != tap.layer)
    save_stats(
        folder / "tap.npz",
        compute_stats(own, [torch.rand(4, 3, 32, 32)], data="noise", tap=replace(tap, layer=earlier)),
    )
    (folder / "cut.pt").write_bytes((folder / "dit.pt").read_bytes()[:5000])
    (folder / "cut.safetensors").write_bytes((folder / "dit.safetensors").read_bytes()[:5000])
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"ema": _Code()}, folder / "code.pt")
    (folder / "torn.yaml").write_text("{a: [")
    (folder / "list.yaml").write_text("[1]")
    (folder / "key.yaml").write_text(json.dumps({**NETWORK, "depht": 1}))
    return made


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs a command that has to be refused before any work, and returns what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        done = command(tmp_path, monkeypatch, *words)
        assert done.code == 2, done.err
        assert "Traceback" not in done.err
        assert "  where: " in done.err
        assert "  fix:   " in done.err
        assert " started" not in done.err, "work began"
        assert not done.records
        assert not done.out
        assert not (tmp_path / "code-was-run").exists()
        return done.err

    return run


MISTAKES = [
    (("-e", "clyp"), "unknown encoder 'clyp'", "did you mean 'clip'"),
    (("-p", "mini-smok"), "unknown protocol 'mini-smok'", "did you mean 'mini-smoke'"),
    (("--guidance", "cgf:1.5"), "'cgf:1.5' is no guidance", "cfg:1.5"),
    (("--guidance", "cfg"), "'cfg' is no guidance", "cfg:1.5"),
    (("--guidance", ""), "'' is no guidance", "cfg:1.5"),
    (("--guidance", "none:2"), "'none:2' is no guidance", "cfg:1.5"),
    (("--guidance", "cfg:1..5"), "no number", "--guidance"),
    (("--guidance", "cfg:0.5"), "the scale must be at least 1, got 0.5", "--guidance"),
    (("--guidance", "cfg:2@0.5-1.5"), "within [0, 1], got [0.5, 1.5]", "--guidance"),
    (("--guidance", "cfg:2@0.9-0.1"), "within [0, 1], got [0.9, 0.1]", "--guidance"),
    (("--guidance", "auto:1.42"), "needs the weights of a weaker network", "add --guide FILE"),
    (("--dit-network", "dit-s"), "--dit-network has no effect without weights", "leave it out"),
    (("--guide-network", "dit-s"), "--guide-network has no effect without weights", "leave it out"),
    (("-n", "0"), "--num-samples must be 2 or more, got 0", "50000"),
    (("-n", "1"), "--num-samples must be 2 or more, got 1", "50000"),
    (("-n", "-5"), "--num-samples must be 2 or more, got -5", "50000"),
    (("--data", "/"), "the world is built in and needs no data", "leave --data out"),
    (("--save-samples", "/"), "is there already", "name a new folder"),
    (("--save-samples", "/dev/null/s"), "cannot write", "folder that you may write to"),
    (("--save-samples", "new", "--save-format", "jpg"), "unknown format of samples 'jpg'", "npz, png"),
    (("--save-format", "npz"), "--save-format has no effect without --save-samples", "add --save-samples DIR"),
    (("--decoder", "none.pt"), "there is no file 'none.pt'", "--decoder"),
    (("--decoder", "."), "no such file 'config.json'", "AutoencoderRAE"),
    (("--stats", "none.pt"), "there is no file 'none.pt'", "--stats"),
    (("--dit", "none.pt"), "there is no file 'none.pt'", "--dit"),
    (("--reference", "none.npz"), "there is no file 'none.npz'", "--reference"),
    (("--lpips-weights", "none"), "there is no file 'none'", "--lpips-weights"),
    (("--dino-weights", "none"), "there is no file 'none'", "--dino-weights"),
    (("--extractor-weights", "none"), "there is no file 'none'", "--extractor-weights"),
    (("-e", "clip?size=48"), "no whole number of patches for 6 x 6 tokens", "4 x 4 tokens"),
    (("-e", "clip?size=32x64"), "the option 'size' cannot be '32x64'", "number of pixels"),
    (("--out", "/dev/null/x"), "cannot write", "--out"),
]


@pytest.mark.parametrize(("words", "what", "hint"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_a_mistake_in_the_options_is_explained(refused: Refused, words: tuple[str, ...], what: str, hint: str) -> None:
    said = refused(*(_with_encoder(words) if words[0] == "-e" else (*SMOKE, *words)))
    assert what in said
    assert hint in said


def _with_encoder(words: tuple[str, ...]) -> tuple[str, ...]:
    return ("gen-fid", *words, "-p", "mini-smoke", "-n", "16")


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"stats": "stat-rows.pt"}, "the latents are 4 x 5, and RAE's are square", "--stats"),
        ({"stats": "stat-grid.pt"}, "are [128, 8, 8], and the latents of 'clip/mini' are [128, 4, 4]", "--stats"),
        ({"stats": "stat-channels.pt"}, "are [64, 4, 4]", "--stats"),
        ({"stats": "other.npz"}, "of another encoder, tap or precision than 'clip/mini'", "--stats"),
        ({"stats": "tap.npz"}, "of another encoder, tap or precision than 'clip/mini'", "--stats"),
        ({"stats": "cut.pt"}, "'cut.pt' is damaged", "get the file again"),
        ({"stats": "code.pt"}, "holds pickled code", "safetensors"),
        ({"stats": "dit.pt"}, "holds no statistics of RAE", "--stats"),
        ({"decoder": "narrow.pt"}, "latents of 64 channels, and the encoder's have 128", "trained on this encoder"),
        ({"decoder": "large.pt"}, "pictures of 64 pixels, and the protocol's have 32", "--decoder"),
        ({"decoder": "cut.pt"}, "'cut.pt' is damaged", "get the file again"),
        ({"decoder": "code.pt"}, "holds pickled code", "safetensors"),
        ({"decoder": "dit.pt"}, "holds no decoder of RAE", "stage 1"),
        ({"dit": "wide.pt"}, "width 48 + 128 where the configuration has 32 + 128", "preset or configuration"),
        ({"dit": "classes.pt"}, "classes with the null label 11 where the configuration has 9", "preset"),
        ({"dit": "cut.pt"}, "'cut.pt' is damaged", "get the file again"),
        ({"dit": "cut.safetensors"}, "'cut.safetensors' is damaged", "get the file again"),
        ({"dit": "empty.pt"}, "'empty.pt' is empty", "get the file again"),
        ({"dit": "code.pt"}, "holds pickled code", "safetensors"),
        ({"dit": "model.pt"}, "holds no diffusion transformer of RAE", "stage 2"),
        ({"dit_network": "torn.yaml"}, "'torn.yaml' cannot be read as YAML", "--dit-network"),
        ({"dit_network": "list.yaml"}, "'list.yaml' holds no settings by name", "--dit-network"),
        ({"dit_network": "key.yaml"}, "unknown field 'depht'", "did you mean 'depth'"),
        ({"dit_network": "none.yaml"}, "there is no file", "--dit-network"),
        ({"dit_network": "classes.yaml"}, "num_classes 10, and the run needs 8", "--dit-network"),
        ({"dit_network": "latents.yaml"}, "in_channels 64, and the run needs 128", "--dit-network"),
    ],
    ids=str,
)
def test_given_weights_that_do_not_fit_are_refused(
    refused: Refused, parts: Parts, changes: dict[str, str], what: str, hint: str
) -> None:
    said = refused(*SMOKE, *parts.changed(**{key: parts.folder / name for key, name in changes.items()}))
    assert what in said
    assert hint in said


def test_a_preset_with_a_slip_is_corrected(refused: Refused, parts: Parts) -> None:
    said = refused(*SMOKE, *parts.changed(dit_network="dit-dh-m"))
    assert "did you mean 'dit-dh-s'" in said


def test_weights_of_a_network_need_their_statistics(refused: Refused, parts: Parts) -> None:
    assert "add --stats FILE" in refused(*SMOKE, "--dit", str(parts.folder / "dit.pt"))


def test_a_guide_without_autoguidance_is_refused(refused: Refused, parts: Parts) -> None:
    said = refused(*SMOKE, *parts.words, *parts.guide, "--guidance", "none", "--guidance", "cfg:2")
    assert "a guide has no effect without autoguidance" in said


@pytest.mark.parametrize("name", ["latents", "classes"])
def test_a_guide_of_other_latents_or_labels_is_refused(refused: Refused, parts: Parts, name: str) -> None:
    files = ("--guide", str(parts.folder / f"{name}.pt"), "--guide-network", str(parts.folder / f"{name}.yaml"))
    said = refused(*SMOKE, *parts.words, *files, "--guidance", "auto:2")
    assert "and the run needs" in said
    assert "--guide-network" in said


def test_classifier_free_guidance_without_a_null_label_is_refused(refused: Refused, parts: Parts) -> None:
    files = {"dit": parts.folder / "no-null.pt", "dit_network": parts.folder / "no-null.yaml"}
    said = refused(*SMOKE, *parts.changed(**files), "--guidance", "cfg:2")
    assert "this one has no null label" in said


def test_a_decoder_for_an_encoder_that_decodes_itself_is_refused(refused: Refused, parts: Parts) -> None:
    said = refused(*_with_encoder(("-e", "vae")), "--decoder", str(parts.folder / "model.pt"))
    assert "vae/mini decodes its own latents" in said


def test_what_the_last_of_several_runs_lacks_is_said_before_the_first_one_trains(
    refused: Refused, parts: Parts
) -> None:
    said = refused(*SMOKE, "-e", "vae", "--decoder", str(parts.folder / "model.pt"))
    assert "vae/mini decodes its own latents" in said


# --- protocols of the paper -------------------------------------------------------------------------------------------


def test_a_missing_scoring_network_is_said_with_the_option_that_names_it(refused: Refused, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nonexistent")
    said = refused(*PAPER)
    assert "weights of the FID network are not on this machine" in said
    assert "--extractor-weights PATH" in said
