"""Vision towers of LLaVA checkpoints ↔ ovbench's encoders: by name, and by the weights that a checkpoint holds."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import write_json, writing
from ovbench._base.paths import cache_dir
from ovbench.encoders.base import Encoder, Variant
from ovbench.encoders.modeling.hf import ARCHITECTURES
from ovbench.encoders.modeling.hf_load import read_fields
from ovbench.encoders.modeling.weights_file import refuse_misfit
from ovbench.encoders.registry import built_in_families, load_encoder, parse_encoder
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.tower_cache import FOLDER, MARK, hold_tower

log = logging.getLogger(__name__)
TOWER, _HERE = "vision_tower", "{checkpoint}"
_KERNELS = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_ARCHITECTURE = ("hidden_size", "num_hidden_layers", "image_size", "patch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """A vision tower's weights inside a checkpoint."""

    state: Mapping[str, Tensor]  # under the keys of transformers 5, without `vision_model.`
    fields: Mapping[str, Any] = field(default_factory=dict)  # its config.json; empty: the checkpoint does not say
    processor: Mapping[str, Any] = field(default_factory=dict)  # its preprocessor_config.json; empty likewise


def tower_of(state: Mapping[str, Tensor], **known: Mapping[str, Any]) -> Tower | None:
    """Returns the tower of some tensors, its older keys renamed; None where there are none."""
    own = {key.removeprefix("vision_model."): value for key, value in state.items()}
    own.pop("embeddings.position_ids", None)  # a count, which older versions of the library stored
    return Tower(state=own, **known) if own else None


def spec_of_tower(name: str, *, where: str) -> str:
    """Returns the encoder that a checkpoint names as its vision tower.

    Args:
        name: A hub id, the path of a folder in transformers' layout, or an encoder's spec string.
        where: The file, for messages.

    Raises:
        ConfigError: No encoder is known under that name.
    """
    published = {
        variant.weights: f"{family.key}/{variant.name}"
        for family in built_in_families().values()
        for variant in family.variants
        if variant.origin == "hub"
    }
    if name in published:
        return published[name]
    if Path(name).is_dir():
        return f"{_variant_of(read_fields(Path(name)), where=name)}:{Path(name).resolve()}"
    tail = Path(name).name
    by_tail = [spec for weights, spec in published.items() if Path(weights).name == tail]
    if by_tail and "?" not in name:
        log.info("the vision tower '%s' is taken for %s, after its last name", name, by_tail[0])
        return by_tail[0]
    try:
        return parse_encoder(name).canonical
    except ConfigError as error:
        raise ConfigError(
            f"the checkpoint's vision tower '{name}' is no encoder that ovbench knows by that name",
            where=where,
            fix="say which it is, e.g. --encoder clip/l14-336 or --encoder hf:/folder",
        ) from error


def name_of_tower(spec: str) -> str:
    """Returns what a checkpoint in the original layout calls an encoder: hub id or folder, else the spec itself."""
    parsed = parse_encoder(spec)
    if parsed.random_seed is None and not set(parsed.options) - {"aspect", "layer", "norm"}:
        if parsed.source is not None and parsed.revision is None and Path(parsed.source).is_dir():
            return parsed.source
        if parsed.source is None and parsed.variant.origin == "hub" and parsed.family.key in ("clip", "siglip"):
            return parsed.variant.weights
    return parsed.canonical


def keep_tower(tower: Tower, *, spec: str | None, where: str) -> str:
    """Writes a tower's weights into the cache, as a folder in transformers' layout, and returns the encoder they are.

    Args:
        tower: The weights.
        spec: The encoder that the checkpoint names; None: its configuration tells.
        where: The checkpoint, for messages.

    Raises:
        ConfigError: Nothing says of which architecture the tower is.
    """
    fields = dict(tower.fields)
    if not fields and spec is not None:
        parsed = parse_encoder(spec)
        fields = dict(parsed.variant.architecture) if parsed.source is None else _fields_of_source(parsed.source)
    if not fields.get("model_type"):
        raise ConfigError(
            f"the checkpoint holds a vision tower, and nothing says of which architecture ({spec or 'no name'})",
            where=where,
            fix="say which encoder has these weights: --encoder",
        )
    base = (
        spec.partition(":")[0].partition("?")[0]
        if spec is not None
        else _variant_of(fields, where=where, kernel=tower.processor.get("resample"))
    )

    def write(out: Path) -> None:
        save_tensors(out / "model.safetensors", tower.state, {"format": "pt"})
        if tower.processor:
            write_json(out / "preprocessor_config.json", tower.processor)
        write_json(out / MARK, fields)

    folder = hold_tower(cache_dir(), _digest(tower)[:32], write)
    return f"{base}:{folder.resolve()}"


def take_along(spec: str, folder: Path) -> str:
    """Copies a tower that lies in the cache into a checkpoint, which must not lose it when the cache is emptied.

    Args:
        spec: The encoder.
        folder: The checkpoint.

    Returns:
        The spec that `placed` finds it by; other encoders' specs as they are.
    """
    parsed = parse_encoder(spec)
    if parsed.source is None or Path(parsed.source).parent != (cache_dir() / FOLDER).resolve():
        return parsed.canonical
    with writing(folder):
        shutil.copytree(parsed.source, folder / TOWER)
    return parsed.canonical.replace(f":{parsed.source}", f":{_HERE}/{TOWER}")


def placed(spec: str, folder: Path) -> str:
    """Returns the spec of an encoder whose tower lies in a checkpoint, which may have been moved."""
    return spec.replace(_HERE, str(folder.resolve()))


def check_tower(tower: Tower, spec: str, *, where: str) -> None:
    """Refuses an encoder whose weights are not those that the checkpoint holds, up to the checkpoint's precision.

    Raises:
        DataError: Keys differ, or values do.
    """
    model = getattr(load_encoder(spec), "model", None)
    own = (
        {} if model is None else {key.removeprefix("vision_model."): value for key, value in model.state_dict().items()}
    )
    own.pop("embeddings.position_ids", None)
    place = f"{where} and --encoder {spec}"
    shapes = [key for key in sorted(set(own) & set(tower.state)) if own[key].shape != tower.state[key].shape]
    faults = {
        "missing in the checkpoint": sorted(set(own) - set(tower.state)),
        "missing in the encoder": sorted(set(tower.state) - set(own)),
        "other shape": shapes,
    }
    refuse_misfit(faults, where=place)
    other = [key for key, value in tower.state.items() if not torch.equal(own[key].to(value.dtype), value)]
    if other:
        raise DataError(
            f"the checkpoint holds a vision tower of other weights than '{spec}': {', '.join(other[:5])}",
            where=place,
            fix="leave --encoder out, so that the checkpoint's own tower is used",
        )


def check_width(model_dim: int, encoder: Encoder, *, where: str) -> None:
    """Refuses an encoder whose tokens the projector cannot read.

    Raises:
        DataError: The widths differ; both are named.
    """
    if encoder.info.dim != model_dim:
        raise DataError(
            f"the projector reads visual tokens of width {model_dim}, and those of '{encoder.info.name}' have "
            f"{encoder.info.dim}",
            where=where,
            fix="use the encoder that the projector was trained with (--encoder)",
        )


def _fields_of_source(source: str) -> dict[str, Any]:
    fields = read_fields(Path(source))
    inner = fields.get("vision_config")
    return {"model_type": f"{fields['model_type']}_vision_model", **inner} if isinstance(inner, Mapping) else fields


def _variant_of(fields: Mapping[str, Any], *, where: str, kernel: Any = None) -> str:
    """Returns `family/variant` whose reading rules fit a tower's config.json best.

    Raises:
        ConfigError: No family has that architecture.
    """
    kind = next((kind for kind in ARCHITECTURES.values() if fields["model_type"] in kind.model_types), None)
    if kind is None:
        raise ConfigError(
            f"the vision tower is of the architecture '{fields['model_type']}', which no encoder of ovbench has",
            where=where,
            fix="say which encoder it is: --encoder hf:/folder",
        )
    inner = fields.get("vision_config") if isinstance(fields.get("vision_config"), Mapping) else fields
    assert inner is not None
    families = [key for key in built_in_families() if key.startswith(kind.family)]  # SigLIP 2 is a SigLIP
    found = [
        (key, variant) for key in families for variant in built_in_families()[key].variants if variant.architecture
    ]

    def fit(entry: tuple[str, Variant]) -> tuple[int, bool, bool]:
        variant = entry[1]
        same = sum(variant.architecture.get(name) == inner.get(name) for name in _ARCHITECTURE)
        resampled = variant.input is not None and _KERNELS[variant.input.resample] == kernel
        return same, resampled, variant.protocol == "released"

    family, variant = max(found, key=fit)
    return f"{family}/{variant.name}"


def _digest(tower: Tower) -> str:
    digest = hashlib.sha256(repr((sorted(tower.fields.items()), sorted(tower.processor.items()))).encode())
    for key, value in sorted(tower.state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
