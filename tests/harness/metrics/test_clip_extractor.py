"""CLIP's embeddings are transformers' own, on pictures as CMMD's program reads them; CMMD is of one network alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench.encoders import clip as clip_family
from ovbench.encoders.base import Variant
from ovbench.encoders.preprocess import OPENAI_CLIP
from ovbench.harness.metrics import clip_extractor
from ovbench.harness.metrics.cmmd import cmmd
from ovbench.harness.metrics.extractor_base import CMMD_TITLE
from ovbench.harness.metrics.extractors import load_extractor
from tests.harness.metrics.fid_data import golden_pictures, nchw, relative

TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "hidden_act": "quick_gelu",
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
    "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
Embed = Callable[[Tensor], Tensor]


def _with_projection(folder: Path) -> Embed:
    config = transformers.CLIPVisionConfig(**TOWER, projection_dim=12)
    model: Any = transformers.CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(folder)
    return lambda x: model(pixel_values=x).image_embeds


def _two_towers(folder: Path) -> Embed:
    """The published layout: both towers in a pickle of tensors, with the integer buffers of OpenAI's files."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=12)
    model: Any = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    state["text_model.embeddings.position_ids"] = torch.arange(6)[None]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return lambda x: model.get_image_features(pixel_values=x).pooler_output


LAYOUTS = {"tower with projection": _with_projection, "two towers": _two_towers}


def _folder(layout: str, folder: Path) -> Embed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LAYOUTS[layout](folder)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Embed]:
    return tmp_path, _folder("two towers", tmp_path)


def _normal(images_01: Tensor) -> Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in OPENAI_CLIP)
    return (images_01 - mean) / std


def _as_the_program_reads(images: np.ndarray, size: int) -> Tensor:
    """The centre square, PIL bicubic, 8 bits; then values in 0…1."""
    read = []
    for image in images:
        side = min(image.shape[:2])
        left, top = (image.shape[1] - side) // 2, (image.shape[0] - side) // 2
        square = Image.fromarray(image).crop((left, top, left + side, top + side))
        read.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["64", "200x320"])
def test_embeddings_are_transformers_own_on_pictures_as_the_program_reads_them(
    layout: str, name: str, tmp_path: Path
) -> None:
    embed = _folder(layout, tmp_path)
    extractor = load_extractor("clip-l14-336", weights=tmp_path)
    images = golden_pictures(name)
    with torch.inference_mode():
        wanted = embed(_normal(_as_the_program_reads(images, 28)))
    found = extractor.extract(images)
    assert list(found) == ["image_embeds"]
    assert relative(found["image_embeds"], wanted) < 1e-5
    assert (extractor.info.dim, extractor.info.size_px, extractor.info.resize) == (12, 28, "square-pil-bicubic-u8")
    assert extractor.info.normalisation == "(x / 255 - CLIP mean) / CLIP std"


@pytest.mark.parametrize("name", ["64", "200x320"])
def test_torch_bicubic_is_the_ports_embed_alone_without_a_clip(name: str, tiny: tuple[Path, Embed]) -> None:
    folder, embed = tiny
    extractor = load_extractor("clip-l14-336", weights=folder, resize="torch-bicubic")
    images = golden_pictures(name)
    x = F.interpolate(nchw(images) / 255, size=(28, 28), mode="bicubic")
    assert float(x.min()) < 0  # the kernel overshoots, and the port hands it on
    with torch.inference_mode():
        wanted, clipped = embed(_normal(x)), embed(_normal(x.clamp(0, 1)))
    found = extractor.extract(images)["image_embeds"]
    assert relative(found, wanted) < 1e-5
    assert relative(found, clipped) > 1e-4
    assert extractor.info.resize == "torch-bicubic"
    assert extractor.info.quantisation == "none"
    other = load_extractor("clip-l14-336", weights=folder).info
    assert other.fingerprint() != extractor.info.fingerprint()
    assert other.quantisation == "rounded to 8 bits after the resize"


def test_at_the_networks_own_size_both_ways_of_reading_are_one(tiny: tuple[Path, Embed]) -> None:
    images = golden_pictures("64")[:, :28, :28]
    both = [load_extractor("clip-l14-336", weights=tiny[0], resize=resize) for resize in (None, "torch-bicubic")]
    one, other = (extractor.extract(images)["image_embeds"] for extractor in both)
    assert relative(one, other) < 1e-6


def test_an_embedding_does_not_depend_on_the_batch(tiny: tuple[Path, Embed]) -> None:
    extractor = load_extractor("clip-l14-336", weights=tiny[0])
    images = golden_pictures("64")
    alone = torch.cat([extractor.extract(images[i : i + 1])["image_embeds"] for i in range(4)])
    assert relative(alone, extractor.extract(images)["image_embeds"]) < 1e-5


def test_cmmd_takes_the_embeddings(tiny: tuple[Path, Embed]) -> None:
    extractor = load_extractor("clip-l14-336", weights=tiny[0])
    first, second = (extractor.extract(golden_pictures(name))["image_embeds"] for name in ("64", "256"))
    assert cmmd(first, first) == pytest.approx(0.0, abs=1e-9)
    assert cmmd(first, second) > 0


def test_copies_of_one_network_have_one_digest_whatever_their_layout(tmp_path: Path) -> None:
    _folder("two towers", tmp_path)
    digest = load_extractor("clip-l14-336", weights=tmp_path).info.weights_sha256
    config = json.loads((tmp_path / "config.json").read_text())
    again = tmp_path / "again"
    tower = transformers.CLIPVisionConfig(**TOWER, projection_dim=config["projection_dim"])
    model = transformers.CLIPVisionModelWithProjection(tower)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    model.save_pretrained(again)
    assert load_extractor("clip-l14-336", weights=again).info.weights_sha256 == digest


def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tiny architecture the published one."""
    (family,) = clip_family.FAMILIES
    real = next(variant for variant in family.variants if variant.name == "l14-336")
    small: Variant = replace(real, architecture={"model_type": "clip_vision_model", **TOWER, "layer_norm_eps": 1e-5})
    spec = clip_extractor.parse_encoder("clip/l14-336")
    monkeypatch.setattr(clip_extractor, "parse_encoder", lambda _text: replace(spec, variant=small))


NAMES = ("FID", "CMMD", "KID")


def test_only_the_published_file_scores_cmmd(
    tiny: tuple[Path, Embed], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = tiny
    info = load_extractor("clip-l14-336", weights=folder).info
    other = ["FD-OtherCLIP", "CMMD-OtherCLIP", "KID-OtherCLIP"]
    assert [info.metric_name(name) for name in NAMES] == other  # it is not ViT-L/14 at 336 pixels
    assert info.network == "clip, width 32, 2 blocks, 28 px"

    _published(monkeypatch)
    with caplog.at_level(logging.WARNING):
        info = load_extractor("clip-l14-336", weights=folder).info
    assert [info.metric_name(name) for name in NAMES] == other  # the architecture, but not the weights
    assert "is not the published CLIP ViT-L/14-336 (pytorch_model.bin, sha256 c6032c2e0caa…)" in caplog.text

    monkeypatch.setattr(clip_extractor, "WEIGHTS_SHA256", file_sha256(folder / "pytorch_model.bin"))
    info = load_extractor("clip-l14-336", weights=folder).info
    assert [info.metric_name(name) for name in NAMES] == [CMMD_TITLE, "CMMD", "KID-CLIP-L14-336"]
    assert info.network == "clip-l14-336"

    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"  # the weights, but not the network
    (folder / "config.json").write_text(json.dumps(config))
    assert load_extractor("clip-l14-336", weights=folder).info.metric_name("CMMD") == "CMMD-OtherCLIP"


def test_a_file_that_is_read_in_place_of_the_published_one_does_not_score_cmmd(
    tiny: tuple[Path, Embed], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tiny
    _published(monkeypatch)
    monkeypatch.setattr(clip_extractor, "WEIGHTS_SHA256", file_sha256(folder / "pytorch_model.bin"))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    model = transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder))
    model.load_state_dict({key: state[key] * 2 for key in model.state_dict()})
    model.save_pretrained(folder)  # model.safetensors
    assert load_extractor("clip-l14-336", weights=folder).info.metric_name("CMMD") == "CMMD-OtherCLIP"


def test_untrained_weights_have_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _published(monkeypatch)
    first, again = (load_extractor("clip-l14-336", weights="random") for _ in range(2))
    info = first.info
    assert [info.metric_name(name) for name in NAMES] == ["FD-UntrainedCLIP", "CMMD-UntrainedCLIP", "KID-UntrainedCLIP"]
    assert not info.trained
    assert info.network.endswith("untrained")
    images = golden_pictures("64")
    assert torch.equal(first.extract(images)["image_embeds"], again.extract(images)["image_embeds"])


def test_weights_in_the_hubs_cache_at_the_pinned_commit_are_the_published_ones(
    tiny: tuple[Path, Embed], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def snapshot(hub_id: str, *, revision: str, local_files_only: bool, **_options: Any) -> str:
        assert local_files_only
        asked.append((hub_id, revision))
        return str(tiny[0])

    _published(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    info = load_extractor("clip-l14-336").info
    assert info.metric_name("CMMD") == "CMMD"
    assert set(asked) == {("openai/clip-vit-large-patch14-336", "ce19dc912ca5cd21c8a653c79e251e808ccabcd1")}


def test_absent_weights_are_named_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(*_args: Any, local_files_only: bool, **_options: Any) -> str:
        assert local_files_only, "fetched"
        raise LocalEntryNotFoundError("absent")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(DataError, match=r"not on this machine: 'openai/clip-vit-large-patch14-336' at ce19") as caught:
        load_extractor("clip-l14-336")
    assert caught.value.where == "the hub's cache"
    assert "--weights FOLDER" in caught.value.fix
    assert "pytorch_model.bin --revision ce19dc912ca5cd21c8a653c79e251e808ccabcd1" in caught.value.fix


def test_a_folders_own_mean_and_deviation_are_used_and_stated(tiny: tuple[Path, Embed]) -> None:
    folder, embed = tiny
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    document = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 28}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 28, "width": 28}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": mean, "image_std": std,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    extractor = load_extractor("clip-l14-336", weights=folder)
    images = golden_pictures("64")
    x = (_as_the_program_reads(images, 28) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        assert relative(extractor.extract(images)["image_embeds"], embed(x)) < 1e-5
    assert extractor.info.normalisation == "(x / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]"


def test_a_tower_without_its_projection_is_refused(tmp_path: Path) -> None:
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"lack 'visual_projection\.weight'") as caught:
        load_extractor("clip-l14-336", weights=tmp_path)
    assert "CLIPVisionModelWithProjection" in caught.value.fix


def test_another_architecture_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(
        DataError, match="of the architecture 'siglip', and this encoder takes: clip_vision_model, clip"
    ):
        load_extractor("clip-l14-336", weights=tmp_path)
    with pytest.raises(DataError, match="'absent' is no folder"):
        load_extractor("clip-l14-336", weights=tmp_path / "absent")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "tf1-bilinear"}, "unknown resize of clip-l14-336 'tf1-bilinear'"),
        ({"layers": ["class_token"]}, "unknown layer of clip-l14-336 'class_token'"),
        ({"compile": True}, "'clip-l14-336' is not compiled"),
        ({"fast": False}, "'clip-l14-336' has one form only"),
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_extractor("clip-l14-336", **options)


def test_bfloat16_is_near_and_is_part_of_the_identity(tiny: tuple[Path, Embed]) -> None:
    exact, quick = (load_extractor("clip-l14-336", weights=tiny[0], precision=name) for name in ("float32", "bfloat16"))
    images = golden_pictures("64")
    change = relative(quick.extract(images)["image_embeds"], exact.extract(images)["image_embeds"])
    assert 1e-5 < change < 3e-2
    assert quick.info.weights_sha256 == exact.info.weights_sha256
    assert quick.info.fingerprint() != exact.info.fingerprint()
