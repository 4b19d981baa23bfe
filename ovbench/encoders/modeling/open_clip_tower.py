"""Image towers of open_clip, with its own transformer or a timm trunk, from a folder in its hub layout or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.names import unknown
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.sources import OPEN_CLIP_WEIGHTS, find_file, locate, read_json_file, read_state, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, eps_of, unchanged
from ovbench.encoders.modeling.vit import load_strict, strip_visual_prefix
from ovbench.encoders.preprocess import as_asked
from ovbench.encoders.processor_json import read_open_clip_preprocess

ADAPTER = ("open_clip", 1)


def load_open_clip(request: LoadRequest) -> TokenEncoder:
    """Builds an image tower of open_clip; the text tower is not built.

    Raises:
        ConfigError: No model is named, it is no transformer, or an option does not fit.
        DataError: Files are missing or damaged, or do not fit.
        DependencyError: open_clip is not installed.
    """
    open_clip = require("open_clip", extra="offline", purpose="the encoder 'open_clip'")
    model_config, preprocess, where = _configuration(open_clip, request)
    tower = _build(model_config, request.random_seed, where)
    if request.random_seed is None:
        weights = find_file(locate(request, weights=OPEN_CLIP_WEIGHTS), OPEN_CLIP_WEIGHTS)
        load_strict(tower, strip_visual_prefix(read_state(weights)), where=str(weights))
    parts = _parts(tower, where)
    side = _side(tower.image_size, where)
    if request.size not in (None, side):
        raise ConfigError(
            f"the weights read {side} x {side} pixels, and {request.size} were asked for",
            where="--encoder open_clip?size=",
            fix="leave size out: open_clip's towers keep their stored positions",
        )
    processor = read_open_clip_preprocess(preprocess, side, where=f"{where}, preprocess_cfg")
    return TokenEncoder.of(
        request,
        network=Network(
            model=tower,
            blocks=parts.blocks,
            run=lambda x: _pooled(tower(x)),
            dim=parts.dim,
            grid=parts.grid,
            num_prefix=parts.num_prefix,
            publish=parts.publish,
            eps=parts.eps,
            architecture={"vision_cfg": model_config["vision_cfg"], "quick_gelu": bool(model_config.get("quick_gelu"))},
        ),
        input=as_asked(processor.spec, request, processor.mean),
        normalisation=processor.normalisation,
        adapter=ADAPTER,
    )


def _configuration(open_clip: Any, request: LoadRequest) -> tuple[dict[str, Any], Mapping[str, Any], str]:
    """Returns model_cfg, preprocess_cfg, and where they are from."""
    name = request.options.get("model")
    if request.source is not None:
        folder = locate(request, weights=OPEN_CLIP_WEIGHTS)
        if not folder.is_dir():
            raise DataError(
                f"'{folder.name}' is no folder", where=str(folder.parent), fix="name a folder in open_clip's layout"
            )
        path = folder / "open_clip_config.json"
        document = read_json_file(path, fix="name a folder in open_clip's layout")
        model_config = document.get("model_cfg")
        preprocess = document.get("preprocess_cfg") or {}
        if not isinstance(model_config, dict) or not isinstance(model_config.get("vision_cfg"), dict):
            raise DataError("no model_cfg with a vision_cfg in the configuration", where=str(path))
        if not isinstance(preprocess, Mapping):
            raise DataError("preprocess_cfg is no mapping", where=str(path))
        return model_config, preprocess, str(path)
    if name is None or request.random_seed is None:
        raise ConfigError(
            "no weights are named",
            where="--encoder open_clip",
            fix="name a folder with open_clip_config.json, open_clip:/path, or ask for untrained weights: "
            "open_clip?model=ViT-B-32&weights=random:0",
        )
    model_config = open_clip.get_model_config(name)
    if model_config is None:
        raise unknown("open_clip model", name, open_clip.list_models(), where="--encoder open_clip?model=")
    return model_config, {}, name


def _build(model_config: Mapping[str, Any], seed: int | None, where: str) -> Any:
    # No public call builds one tower alone, and the text tower of some models asks the hub for its configuration.
    factory = require("open_clip.model")._build_vision_tower
    trunk = model_config["vision_cfg"].get("timm_model_name")
    if trunk and not require("timm", extra="offline", purpose="a trunk of timm").is_model(trunk):
        raise DataError(
            f"timm has no architecture '{trunk}'",
            where=where,
            fix="name it as timm does: nothing is fetched for a trunk",
        )
    try:
        tower = seeded(
            lambda: factory(
                int(model_config["embed_dim"]),
                {**model_config["vision_cfg"], "timm_model_pretrained": False},  # true would ask the hub
                quick_gelu=bool(model_config.get("quick_gelu", False)),
            ),
            seed or 0,
        )
    except (
        AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError,
    ) as error:  # fmt: skip
        raise DataError(
            f"open_clip cannot build the image tower: {type(error).__name__}: {error}", where=where
        ) from error
    return tower.eval()


def _pooled(out: Any) -> Any:
    """Returns the pooled vector: alone, or first where the configuration asks for tokens too."""
    return out[0] if isinstance(out, tuple) else out


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    blocks: tuple[nn.Module, ...]
    dim: int
    grid: tuple[int, int]
    num_prefix: int
    publish: Callable[[Tensor], Tensor]
    eps: float


def _parts(tower: Any, where: str) -> _Parts:
    """Returns what of a tower is tapped: open_clip's own transformer, or the trunk of timm that it wraps."""
    trunk = getattr(tower, "trunk", None)
    if trunk is None and hasattr(tower, "transformer"):
        after_pool = bool(getattr(tower, "final_ln_after_pool", False)) or getattr(tower, "attn_pool", None) is not None
        rows, columns = tower.grid_size
        return _Parts(
            blocks=tuple(tower.transformer.resblocks),
            dim=int(tower.conv1.out_channels),
            grid=(int(rows), int(columns)),
            num_prefix=1,
            publish=unchanged if after_pool else tower.ln_post,
            eps=float(tower.ln_post.eps),
        )
    if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "num_prefix_tokens"):
        rows, columns = trunk.patch_embed.grid_size
        if trunk.patch_embed.img_size and tuple(trunk.patch_embed.img_size) != tuple(tower.image_size):
            raise DataError(
                f"vision_cfg says {tower.image_size} pixels, and its trunk reads {trunk.patch_embed.img_size}",
                where=where,
            )
        return _Parts(
            blocks=tuple(trunk.blocks),
            dim=int(trunk.embed_dim),
            grid=(int(rows), int(columns)),
            num_prefix=int(trunk.num_prefix_tokens),
            publish=trunk.norm,
            eps=eps_of(trunk.norm, getattr(trunk, "fc_norm", None), *trunk.blocks[0].modules()),
        )
    raise ConfigError(
        f"the image tower is a {type(trunk or tower).__name__}, which has no tokens in a residual stream",
        where=where,
        fix="name a ViT, or write an adapter: docs/add-an-encoder.md",
    )


def _side(size: Any, where: str) -> int:
    sides = {int(size)} if isinstance(size, int) else {int(side) for side in size}
    if len(sides) != 1:
        raise ConfigError(f"the tower reads {size} pixels, which is no square", where=where)
    return sides.pop()
