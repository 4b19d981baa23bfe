"""Any vision transformer of transformers' AutoModel: what its configuration does not say is found by a trial run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.hf import decisive_fields, find_blocks, preprocessing
from ovbench.encoders.modeling.sources import check_finite, locate, read_json_file, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, keep_output

ADAPTER = ("hf", 1)
_TOWERS = ("vision_model", "vision_tower", "visual", "vit")


def load_hf(request: LoadRequest) -> TokenEncoder:
    """Builds a vision encoder that AutoModel knows.

    Class and register tokens are counted by a trial run, or given (`?prefix=N`); the final norm is the one that turns
    the last block's output into `last_hidden_state`.

    Raises:
        ConfigError: The tokens do not fit a grid, or no norm explains what the model publishes.
        DataError: Files are missing or damaged, or do not fit.
    """
    transformers = require("transformers", purpose="the encoder 'hf'")
    folder = locate(request)
    if not folder.is_dir():
        raise DataError(f"'{folder.name}' is no folder", where=str(folder), fix="name a folder in transformers' layout")
    fields = read_json_file(folder / "config.json", fix="name a folder in transformers' layout")
    if "auto_map" in fields:
        raise DataError(
            "the model brings its own Python code, which ovbench does not run",
            where=str(folder / "config.json"),
            fix="write an adapter that imports that code knowingly: docs/add-an-encoder.md",
        )
    tower, config = _load(transformers, request, folder)
    patch, native = _number(config, "patch_size", folder), _number(config, "image_size", folder)
    spec, normalisation = preprocessing(request, folder, default_px=native)
    grid = (spec.size[0] // patch, spec.size[1] // patch)
    extra: dict[str, Any] = {}
    if spec.size != (native, native):
        if "interpolate_pos_encoding" not in inspect.signature(tower.forward).parameters:
            raise ConfigError(
                f"the network reads {native} x {native} pixels and cannot interpolate its positions for {spec.size}",
                where=f"--encoder hf:{folder}",
                fix="leave size out, or mend the size in the processor's JSON",
            )
        extra["interpolate_pos_encoding"] = True
    blocks = find_blocks(tower, int(config.num_hidden_layers))

    def run(x: Tensor) -> Any:
        return getattr(tower(pixel_values=x, **extra), "pooler_output", None)

    last, published = _trial(tower, blocks, spec.size, extra, folder)
    num_tokens = grid[0] * grid[1]
    num_prefix = _prefix(request, last.shape[1], num_tokens, grid)
    return TokenEncoder(
        name=request.name,
        network=Network(
            model=tower,
            blocks=blocks,
            run=run,
            dim=last.shape[-1],
            grid=grid,
            num_prefix=num_prefix,
            publish=_final_norm(tower, last, published, folder),
            eps=float(getattr(config, "layer_norm_eps", 1e-6)),
            architecture={
                "class": type(tower).__name__,
                "positions": "interpolated" if extra else "stored",
                **decisive_fields(config),
            },
        ),
        input=spec,
        normalisation=normalisation,
        llm_tap=request.llm_tap or request.variant.llm_tap,
        latent_tap=request.variant.latent_tap,
        adapter=ADAPTER,
        random_seed=request.random_seed,
        device=request.device,
        dtype=request.dtype,
    )


def _load(transformers: Any, request: LoadRequest, folder: Path) -> tuple[Any, Any]:
    report: dict[str, Any] = {}
    try:
        if request.random_seed is None:
            model, report = transformers.AutoModel.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        else:
            config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
            model = seeded(lambda: transformers.AutoModel.from_config(config), request.random_seed)
    except Exception as error:  # the library's own kinds of failure, none of them its own class
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DataError(f"AutoModel cannot load it: {lines[0]}", where=str(folder)) from error
    tower = next((getattr(model, name) for name in _TOWERS if isinstance(getattr(model, name, None), nn.Module)), model)
    prefix = next((f"{name}." for name in _TOWERS if getattr(model, name, None) is tower), "")
    missing = [key for key in report.get("missing_keys", ()) if key.startswith(prefix)]
    wrong = [str(entry[0]) for entry in report.get("mismatched_keys", ()) if str(entry[0]).startswith(prefix)]
    strange = [key for key in report.get("unexpected_keys", ()) if prefix and key.startswith(prefix)]
    if missing or wrong or strange:
        raise DataError(
            f"the weights do not fit the architecture ({', '.join(sorted([*missing, *wrong, *strange])[:5])})",
            where=str(folder),
            fix="check that the configuration and the weights are of the same model",
        )
    check_finite(tower, where=str(folder))
    tower.eval()
    config = getattr(tower, "config", model.config)
    return tower, getattr(config, "vision_config", config)


def _number(config: Any, name: str, folder: Path) -> int:
    value = getattr(config, name, None)
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int):
        raise DataError(
            f"the configuration gives no single {name} (it says {value!r})",
            where=str(folder / "config.json"),
            fix="write an adapter for this network: docs/add-an-encoder.md",
        )
    return value


@torch.no_grad()
def _trial(
    tower: Any, blocks: tuple[nn.Module, ...], size: tuple[int, int], extra: dict[str, Any], folder: Path
) -> tuple[Tensor, Tensor]:
    """Returns h[L] and `last_hidden_state` of one noise image."""
    kept: list[Tensor] = []
    handle = keep_output(blocks[-1], kept)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    try:
        out = tower(pixel_values=image, **extra)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"a trial run failed: {error}", where=str(folder)) from error
    finally:
        handle.remove()
    published = getattr(out, "last_hidden_state", None)
    if not isinstance(published, Tensor) or not kept or kept[0].shape != published.shape:
        raise DataError("the network publishes no last_hidden_state of its last block", where=str(folder))
    return kept[0], published


def _prefix(request: LoadRequest, length: int, num_tokens: int, grid: tuple[int, int]) -> int:
    found = length - num_tokens
    text = request.options.get("prefix")
    if text is not None and (not text.isdecimal() or int(text) != found):
        raise ConfigError(
            f"prefix={text} was given, and the network returns {length} tokens for a {grid[0]} x {grid[1]} grid",
            where="--encoder hf?prefix=",
            fix=f"the rest is {found}" if found >= 0 else "check the patch size in config.json",
        )
    if found < 0:
        raise ConfigError(
            f"the network returns {length} tokens, fewer than its {grid[0]} x {grid[1]} grid",
            where="--encoder hf",
            fix="it merges tokens: write an adapter (docs/add-an-encoder.md)",
        )
    return found


def _final_norm(tower: nn.Module, last: Tensor, published: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    def as_it_is(h: Tensor) -> Tensor:
        return h

    if torch.allclose(last, published, atol=1e-5):
        return as_it_is
    with torch.no_grad():
        for name, module in tower.named_modules():
            is_norm = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
            if is_norm and "." not in name.removeprefix("encoder."):
                found = module(last)
                if torch.allclose(found, published, atol=1e-5):
                    return module
    raise ConfigError(
        "no norm of the network turns its last block's output into last_hidden_state",
        where=f"--encoder hf:{folder}",
        fix="write an adapter for this network: docs/add-an-encoder.md",
    )
