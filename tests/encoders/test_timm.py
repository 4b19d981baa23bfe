"""Vision transformers of timm through the public loader, against timm's own intermediate features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import load_encoder

pytest.importorskip("timm", reason="needs timm, of the extra 'offline'")
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


@dataclass(frozen=True, kw_only=True)
class Model:
    """An architecture, made small, and what is known of it."""

    architecture: str
    arguments: dict[str, Any]
    num_prefix: int
    num_classes: int = 0


MODELS = {
    "class token": Model(architecture="vit_tiny_patch16_224", arguments=SMALL, num_prefix=1, num_classes=10),
    "registers": Model(architecture="vit_base_patch14_reg4_dinov2", arguments=SMALL, num_prefix=5),
    "pooled norm": Model(architecture="vit_base_patch16_siglip_gap_224", arguments=SMALL, num_prefix=0),
    "norm in front": Model(
        architecture="vit_base_patch16_clip_quickgelu_224", arguments=SMALL, num_prefix=1, num_classes=7
    ),
    "mean of patches": Model(
        architecture="vit_base_patch16_224", arguments={**SMALL, "global_pool": "avg"}, num_prefix=1
    ),
    "rotary": Model(architecture="eva02_tiny_patch14_224", arguments={**SMALL, "ref_feat_shape": [4, 4]}, num_prefix=1),
}


def create(model: Model) -> Any:
    """Returns timm's model with weights that make every part count, LayerScale and norms included."""
    generator = torch.Generator().manual_seed(3)
    net = require("timm").create_model(model.architecture, num_classes=model.num_classes, **model.arguments)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return net.eval()


def write(folder: Path, model: Model, net: Any, *, kind: str = "model.safetensors", **changes: Any) -> Path:
    """Writes timm's hub layout."""
    folder.mkdir(exist_ok=True, parents=True)
    document = {
        "architecture": model.architecture,
        "num_classes": model.num_classes,
        "num_features": net.num_features,
        "global_pool": net.global_pool,
        "model_args": model.arguments,
        "pretrained_cfg": {
            "tag": "untagged",
            "input_size": [3, 32, 32],
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "crop_mode": "center",
            **HALF,
        },
    }
    (folder / "config.json").write_text(json.dumps({**document, **changes}))
    if kind.endswith(".safetensors"):
        save_file(net.state_dict(), folder / kind)
    else:
        torch.save(net.state_dict(), folder / kind)
    return folder


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def whole(encoder: Encoder, images: Tensor, tap: Tap) -> Tensor:
    features = encoder.features(images, tap)
    assert features.prefix is not None
    return torch.cat([features.prefix, features.tokens], dim=1)


@torch.no_grad()
def check(encoder: Encoder, net: Any, images: Tensor) -> None:
    """Compares every block, the published tokens and the pooled output with timm's own, token for token."""
    x = (images - 0.5) / 0.5
    count = encoder.info.num_prefix
    intermediates = net.forward_intermediates(
        x, norm=False, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=count > 0
    )
    assert len(intermediates) == encoder.info.depth
    for number, expected in enumerate(intermediates):
        tokens, prefix = expected if count else (expected, torch.zeros(len(x), 0, tokens_width(expected)))
        got = encoder.features(images, Tap(layer=number + 1, prefix=True))
        torch.testing.assert_close(got.tokens, tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.prefix, prefix, atol=1e-5, rtol=1e-5)
    published = net.forward_features(x)
    torch.testing.assert_close(whole(encoder, images, Tap(prefix=True)), published, atol=1e-5, rtol=1e-5)
    pooled = net.forward_head(published, pre_logits=True)
    torch.testing.assert_close(encoder.features(images).pooled, pooled, atol=1e-5, rtol=1e-5)
    rows, columns = encoder.info.grid
    norm = torch.nn.functional.layer_norm(encoder.features(images, Tap(norm="none")).tokens, (32,), eps=eps_of(net))
    expected = norm.transpose(1, 2).reshape(len(images), -1, rows, columns)
    torch.testing.assert_close(encoder.latents(images), expected, atol=1e-5, rtol=1e-5)


def tokens_width(tokens: Tensor) -> int:
    return tokens.shape[-1]


def eps_of(net: Any) -> float:
    norm = next(part for part in (net.norm, net.fc_norm) if not isinstance(part, torch.nn.Identity))
    return norm.eps


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_gives_timms_own_features(model: Model, kind: str, tmp_path: Path, images: Tensor) -> None:
    net = create(model)
    encoder = load_encoder(f"timm:{write(tmp_path, model, net, kind=kind)}")
    info = encoder.info
    assert (info.name, info.num_prefix) == (f"timm/{model.architecture}", model.num_prefix)
    assert (info.dim, info.depth, info.grid, info.patch_px) == (32, 3, (4, 4), 8)
    assert info.num_params == sum(parameter.numel() for parameter in net.parameters())
    check(encoder, net, images)


def test_preprocessing_is_the_files_with_the_whole_picture(tmp_path: Path) -> None:
    model = MODELS["class token"]
    info = load_encoder(f"timm:{write(tmp_path, model, create(model))}").info
    assert (info.input.resample, info.input.aspect, info.input.size) == ("bilinear", "crop", (32, 32))
    assert info.input.short_side is None  # crop_pct 0.9 would make it 36
    assert info.mean == (0.5, 0.5, 0.5)


def test_the_older_layout_with_one_mapping_is_read(tmp_path: Path, images: Tensor) -> None:
    model = Model(architecture="vit_tiny_patch16_224", arguments={}, num_prefix=1, num_classes=5)
    net = create(model)
    folder = write(tmp_path, model, net)
    flat = {"architecture": model.architecture, "num_classes": 5, "num_features": 192, "input_size": [3, 224, 224],
            "interpolation": "bicubic", **HALF}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(flat))
    info = load_encoder(f"timm:{folder}").info
    assert (info.grid, info.dim, info.mean, info.input.resample) == ((14, 14), 192, (0.5, 0.5, 0.5), "bicubic")


@pytest.mark.parametrize("place", ["top", "pretrained_cfg", "nowhere"])
def test_the_number_of_classes_is_found_where_the_layout_has_it(place: str, tmp_path: Path) -> None:
    classes = 1000 if place == "nowhere" else 6
    model = Model(architecture="vit_tiny_patch16_224", arguments=SMALL, num_prefix=1, num_classes=classes)
    folder = write(tmp_path, model, create(model))
    document = json.loads((folder / "config.json").read_text())
    if place != "top":
        del document["num_classes"]
    if place == "pretrained_cfg":
        document["pretrained_cfg"]["num_classes"] = classes
    (folder / "config.json").write_text(json.dumps(document))
    assert load_encoder(f"timm:{folder}").info.dim == 32


def test_a_wrong_number_of_classes_is_a_wrong_shape(tmp_path: Path) -> None:
    model = MODELS["class token"]
    folder = write(tmp_path, model, create(model), num_classes=11)
    with pytest.raises(DataError, match=r"wrong shape: head\.bias: \(10,\) instead of \(11,\)") as caught:
        load_encoder(f"timm:{folder}")
    assert "model.safetensors" in caught.value.where


# --- a file and a name, a name alone


@pytest.mark.parametrize("num_classes", [0, 1000, 21])
@torch.no_grad()
def test_a_file_needs_the_name_of_its_architecture(num_classes: int, tmp_path: Path) -> None:
    net = require("timm").create_model("vit_tiny_patch16_224", num_classes=num_classes).eval()
    path = tmp_path / "some.safetensors"
    save_file(net.state_dict(), path)
    with pytest.raises(ConfigError, match="no architecture is named"):
        load_encoder(f"timm:{path}")
    encoder = load_encoder(f"timm:{path}?model=vit_tiny_patch16_224")
    assert encoder.info.grid == (14, 14)
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (encoder.info.mean, encoder.info.std))
    expected = net.forward_features((images - mean) / std)
    torch.testing.assert_close(whole(encoder, images, Tap(prefix=True)), expected, atol=1e-5, rtol=1e-5)


def test_untrained_weights_need_a_name_alone_and_follow_the_seed(tmp_path: Path) -> None:
    one, again, other = (load_encoder(f"timm?model=vit_tiny_patch16_224&weights=random:{n}").info for n in (1, 1, 2))
    assert one.random_seed == 1
    assert one.weights_digest == again.weights_digest != other.weights_digest
    assert one.identity != other.identity
    model = MODELS["registers"]
    folder = write(tmp_path, model, create(model))
    (folder / "model.safetensors").unlink()
    assert load_encoder(f"timm:{folder}?weights=random:0").info.num_prefix == 5


def test_weights_or_a_seed_must_be_named() -> None:
    with pytest.raises(ConfigError, match="'vit_tiny_patch16_224' needs weights") as caught:
        load_encoder("timm?model=vit_tiny_patch16_224")
    assert "timm?model=vit_tiny_patch16_224&weights=random:0" in caught.value.fix
    with pytest.raises(ConfigError, match="no architecture is named"):
        load_encoder("timm")


def test_an_unknown_name_comes_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown timm architecture 'vit_tiny_patch16_225'") as caught:
        load_encoder("timm?model=vit_tiny_patch16_225&weights=random:0")
    assert "vit_tiny_patch16_224" in caught.value.fix


# --- sizes


@pytest.mark.parametrize("name", ["class token", "registers", "rotary"])
@torch.no_grad()
def test_another_size_is_what_timm_makes_of_it(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    net = create(model)
    folder = write(tmp_path, model, net)
    encoder = load_encoder(f"timm:{folder}?size=48")
    net.set_input_size(img_size=48)
    assert (encoder.info.input.size, encoder.info.grid) == ((48, 48), (6, 6))
    check(encoder, net, torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1)))
    assert encoder.info.identity != load_encoder(f"timm:{folder}").info.identity
    assert load_encoder(f"timm:{folder}?size=32").info.identity == load_encoder(f"timm:{folder}").info.identity


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(tmp_path: Path) -> None:
    model = MODELS["class token"]
    folder = write(tmp_path, model, create(model))
    with pytest.raises(ConfigError, match="50 is no multiple of the patch size 8") as caught:
        load_encoder(f"timm:{folder}?size=50")
    assert caught.value.fix == "use 48"
    with pytest.raises(ConfigError) as small:
        load_encoder(f"timm:{folder}?size=5")
    assert small.value.fix == "use 8"


# --- refusals


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_a_network_without_a_residual_stream_of_tokens_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is no plain vision transformer") as caught:
        load_encoder(f"timm?model={name}&weights=random:0")
    assert "name a ViT" in caught.value.fix


def test_openais_weights_with_the_exact_gelu_are_refused(tmp_path: Path, images: Tensor) -> None:
    model = Model(architecture="vit_base_patch16_clip_224", arguments=SMALL, num_prefix=1, num_classes=7)
    tagged = {"tag": "openai", "input_size": [3, 32, 32], **HALF}
    net = create(MODELS["norm in front"])
    folder = write(tmp_path, model, net, pretrained_cfg=tagged)
    with pytest.raises(DataError, match="trained with the quick one") as caught:
        load_encoder(f"timm:{folder}")
    assert caught.value.fix == "add ?model=vit_base_patch16_clip_quickgelu_224"
    check(load_encoder(f"timm:{folder}?model=vit_base_patch16_clip_quickgelu_224"), net, images)


@pytest.mark.parametrize("tag", ["openai_ft_in1k", "laion2b"])
def test_weights_that_were_trained_further_keep_the_exact_gelu(tag: str, tmp_path: Path, images: Tensor) -> None:
    model = Model(architecture="vit_base_patch16_clip_224", arguments=SMALL, num_prefix=1, num_classes=7)
    net = create(model)
    folder = write(tmp_path, model, net, pretrained_cfg={"tag": tag, "input_size": [3, 32, 32], **HALF})
    check(load_encoder(f"timm:{folder}"), net, images)


def test_a_name_with_openais_tag_is_refused_for_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    torch.save({"head.weight": torch.zeros(3, 768)}, path)
    with pytest.raises(DataError, match="trained with the quick one") as caught:
        load_encoder(f"timm:{path}?model=vit_base_patch16_clip_224.openai")
    assert "vit_base_patch16_clip_quickgelu_224.openai" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": None}, "does not say 'architecture'"),
        ({"pretrained_cfg": [1]}, "must be mappings"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32], "interpolation": "lanczos"}}, "'interpolation' is 'lanczos'"),
        ({"pretrained_cfg": {"input_size": [1, 32, 32]}}, "reads 1 channels"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    model = MODELS["class token"]
    with pytest.raises(DataError, match=what) as caught:
        load_encoder(f"timm:{write(tmp_path, model, create(model), **changes)}")
    assert str(tmp_path) in caught.value.where


def test_arguments_that_timm_does_not_take_are_named(tmp_path: Path) -> None:
    model = MODELS["class token"]
    with pytest.raises(ConfigError, match="timm cannot build 'vit_tiny_patch16_224'.*wings"):
        load_encoder(f"timm:{write(tmp_path, model, create(model), model_args={'wings': 2})}")


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    net = create(MODELS["registers"])
    with pytest.raises(DataError, match=r"missing: .*; unexpected: blocks.0.ls1.gamma"):
        load_encoder(f"timm:{write(tmp_path, MODELS['class token'], net)}")
