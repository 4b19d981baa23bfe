"""The tables and cards of `ovbench encoders`: whole in 100 columns, and without weights, torch or a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from ovbench._base.errors import ConfigError, DataError, DependencyError
from ovbench.encoders.card import encoder_card, rows_of_card
from ovbench.encoders.plugins import register_encoder
from ovbench.encoders.registry import families, load_encoder
from ovbench.listing import check_encoder_flags, encoder_rows, encoder_table, short_licence
from ovbench.results.formats.to_console import render_rows

MAX_LISTING_S = 0.6  # best of five on two busy cores


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of the test's own, and a hub client that must not be asked over the network."""
    import huggingface_hub.constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return hub


def ovbench(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ovbench", *words], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def shown(text: str, **options: Any) -> dict[str, str]:
    return {row["field"]: row["value"] for row in rows_of_card(encoder_card(text, **options))}


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_fits_100_columns_and_folds_no_name_and_no_number() -> None:
    text = render_rows(encoder_table(encoder_rows(), width=100), width=100)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    names = {line.split()[0] for line in lines if line[0] != " "}
    assert {f"{family.key}/{variant.name}" for family in families().values() for variant in family.variants} < names
    assert re.search(r"^ovis3/large-256 .* 256 +256 +1024 +304 \+ 84 ", text, flags=re.M)


def test_a_wide_table_has_one_line_per_encoder() -> None:
    rows = encoder_rows()
    assert len(render_rows(encoder_table(rows)).splitlines()) == len(rows) + 1


def test_the_table_says_where_weights_are_and_sets_the_vae_apart() -> None:
    table = {row["encoder"]: row for row in encoder_table(encoder_rows())}
    assert table["ovis3/base-256"]["M params"] == "86 + 84"
    assert table["vae/sd"]["M params"] == "84"
    assert table["timm/any"]["M params"] == "—"
    words = {name: table[name]["weights"] for name in ("ovis3/mini", "clip/b16", "random/mini", "timm/any")}
    assert list(words.values()) == ["embedded", "hub", "untrained", "yours"]
    assert "(control)" in table["random/mini"]["what"]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("MIT (github openai/CLIP; the hub's card states none)", "MIT"),
        ("Apache-2.0 (github UCSC-VLAA/OpenVision); its VAE: FLUX.1 [dev] non-commercial", "Apache-2.0 + NC"),
        ("Apache-2.0 (hub card; github facebookresearch/mae: CC-BY-NC-4.0)", "Apache-2.0 + NC"),
        ("FLUX.1 [dev] non-commercial", "FLUX.1 [dev] non-commercial"),
        ("Stability AI Community Licence", "Stability AI"),
        ("not stated by the adapter", "—"),
        ("", "—"),
    ],
)
def test_a_short_licence_never_hides_a_non_commercial_part(text: str, short: str) -> None:
    assert short_licence(text) == short


def test_json_has_everything_as_numbers() -> None:
    rows = {row["encoder"]: row for row in json.loads(ovbench("encoders", "--json").stdout)}
    row = rows["clip/l14-336"]
    assert (row["px"], row["tokens"], row["dim"], row["num_params"]) == (336, 576, 1024, 303_507_456)
    assert row["revision"] == "ce19dc912ca5cd21c8a653c79e251e808ccabcd1"
    assert row["citation"] == "arXiv 2103.00020"
    assert rows["timm/any"]["px"] is None


def test_the_listing_is_there_at_once() -> None:
    times_s: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        assert ovbench("encoders").returncode == 0
        times_s.append(time.perf_counter() - began)
        if times_s[-1] < MAX_LISTING_S:
            break
    assert min(times_s) < MAX_LISTING_S


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_of_an_embedded_encoder_has_the_loaded_facts() -> None:
    info = load_encoder("ovis3/mini").info
    card = shown("ovis3/mini")
    assert card["weights"] == "embedded in ovbench"
    assert (card["identity"], card["weights digest"]) == (info.identity, info.weights_digest)
    assert card["parameters"] == "0.826 M + 0.474 M of the VAE in front"
    assert card["operations"] == (
        "0.112 GFLOPs + 0.147 GFLOPs of the VAE in front per image (a multiply-accumulate is 2)"
    )
    assert card["normalisation"].startswith("mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5")
    assert "?vae=" in card


def test_the_card_of_weights_that_are_not_here_shows_all_that_is_known_without_them() -> None:
    card = shown("clip/l14-336")
    assert card["weights"] == "not on this disk (openai/clip-vit-large-patch14-336 at ce19dc912ca5)"
    assert card["revision"] == "ce19dc912ca5cd21c8a653c79e251e808ccabcd1"
    assert card["tokens"] == "576 (24 x 24)"
    assert card["prefix tokens"].startswith("1 ")
    assert card["depth"] == "24 blocks"
    assert card["read by a language model"] == "layer -2: residual stream"
    assert card["preprocessing"] == "crop: short side to 336 px, then centre crop; bicubic, PIL"
    assert card["normalisation"].startswith("mean 0.481455, 0.457827, 0.408211; std 0.26863, 0.261303, 0.275777")
    assert card["operations"].startswith("382 GFLOPs per image")
    assert (card["training data"], card["citation"]) == ("WIT-400M, not public", "arXiv 2103.00020")
    assert "identity" not in card
    assert "weights digest" not in card


def test_the_card_of_weights_without_a_commit_asks_for_one() -> None:
    card = shown("ovis3/base-256")
    assert card["weights"] == "not on this disk; no commit of them is pinned: name one"
    assert card["revision"] == "no commit pinned: name one, key/variant:ID@COMMIT"
    assert card["front end's revision"] == "no commit pinned: name one, ?vae=ID@COMMIT"
    assert card["operations"].startswith("46.1 GFLOPs + 273 GFLOPs of the VAE in front")


def test_the_card_follows_the_options() -> None:
    assert shown("dinov2/small?size=448")["tokens"] == "1024 (32 x 32)"
    assert shown("clip/b16?aspect=pad")["preprocessing"].startswith("pad: padded to a square with RGB [122, 116, 104]")
    assert shown("clip/mini?layer=-2")["read by a language model"] == "layer -2: residual stream"


def test_the_card_of_untrained_weights_says_so() -> None:
    card = encoder_card("clip/mini?weights=random:4")
    assert card["weights"]["state"] == "UNTRAINED, seed 4"
    assert card["weights"]["random_seed"] == 4
    assert shown("random")["control"] == "yes: stands in every table to be beaten"


def test_the_card_of_a_vae_has_no_blocks_and_is_not_offered_to_a_language_model() -> None:
    card = shown("vae/sd")
    assert card["offered to"] == "reconstruction, generation"
    assert card["depth"] == "0 blocks: convolutional"
    assert card["operations"].startswith("273 GFLOPs (VAE) per image")


def test_the_card_of_a_generic_family_says_what_to_name() -> None:
    card = shown("hf")
    assert card["weights"].startswith("none named; name a folder or a hub id with its commit")
    assert card["tokens"] == card["parameters"] == card["input"] == "depends on the weights"


def test_the_card_of_a_folder_shows_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    _save_tiny_clip(folder)
    card = encoder_card(f"clip/b16:{folder}")
    assert card["weights"]["state"] == "on this disk"
    assert card["weights"]["identity"] == load_encoder(f"clip/b16:{folder}").info.identity
    assert card["tokens"]["grid"] == [2, 2]


def _save_tiny_clip(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(folder)


def test_weights_in_the_hub_cache_are_used_and_others_of_the_hub_are_not_fetched(hub_cache: Path) -> None:
    commit = "1" * 40
    spec = f"clip/b16:someone/tiny-clip@{commit}"
    assert shown(spec)["weights"] == "not on this disk (someone/tiny-clip at 111111111111)"
    assert shown(spec)["operations"] == "not counted: the weights that were named are not on this disk"
    _save_tiny_clip(hub_cache / "models--someone--tiny-clip" / "snapshots" / commit)
    card = encoder_card(spec)
    assert card["weights"]["state"] == "on this disk"
    assert card["weights"]["revision"] == commit
    assert card["weights"]["loaded"]


def test_damaged_weights_are_an_error_and_not_a_card(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(DataError):
        encoder_card(f"clip/mini:{path}")
    import torch

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError):
        encoder_card(f"clip/mini:{path}")


def test_weights_of_a_package_that_is_not_installed_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovbench.encoders import card

    def absent(_spec: object) -> None:
        raise DependencyError("a package is not installed", fix="pip install it")

    (name,) = (row["encoder"] for row in encoder_rows() if row["origin"] == "package")
    monkeypatch.setattr(card, "load_encoder", absent)
    assert shown(name)["weights"] == "not here: a package is not installed; pip install it"


def test_a_foreign_network_that_cannot_be_counted_still_has_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovbench.encoders import plugins
    from ovbench.encoders.modeling import measure

    monkeypatch.setattr(plugins, "_registered", {})

    def fails(_encoder: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(measure, "count_flops", fails)
    register_encoder("mine")(lambda source=None: load_encoder("clip/mini"))
    card = shown("mine")
    assert card["operations"] == "not counted: its forward pass failed: RuntimeError: no such kernel"
    assert card["tokens"] == "64 (8 x 8)"
    with pytest.raises(RuntimeError, match="no such kernel"):  # our own would be a bug
        encoder_card("clip/mini")


def test_the_card_as_json_is_plain_numbers() -> None:
    card = json.loads(ovbench("encoders", "show", "mae/base-224", "--json").stdout)
    assert card["operations"]["gflops_per_image"] == pytest.approx(35.126, abs=1e-3)
    assert card["parameters"] == {"num_params": 85_798_656, "num_params_frontend": 0}
    assert card["input"]["size_px"] == [224, 224]


# --- the command's errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (("show", "clyp"), "unknown encoder 'clyp'", "did you mean 'clip'"),
        (("show", "clip/b17"), "unknown variant of clip 'b17'", "did you mean 'b16'"),
        (("--measure",), "--measure needs one encoder", "run: ovbench encoders show NAME --measure"),
        (("show", "clip", "--check"), "--check is about all plug-ins", "ovbench check clip"),
        (("show", "clip", "--device", "cuda"), "--device and --dtype are those of --measure", "show NAME --measure"),
        (("show",), "'show' is not understood", "ovbench encoders show NAME"),
        (("show", "clip/mini", "--measure", "--dtype", "int8"), "int8", "float32"),
        (("show", "timm", "--measure"), "'timm/any' cannot be measured", "timm:/path"),
    ],
)
def test_a_mistake_on_the_command_line_is_three_lines(words: tuple[str, ...], what: str, fix: str) -> None:
    done = ovbench("encoders", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert what in done.stderr
    assert fix in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_that_have_an_effect_pass() -> None:
    check_encoder_flags("clip", check=False, measure=True, device="cuda", dtype="bfloat16")
    check_encoder_flags(None, check=True, measure=False, device="cpu", dtype="float32")
    with pytest.raises(ConfigError):
        check_encoder_flags(None, check=False, measure=False, device="cpu", dtype="bfloat16")
