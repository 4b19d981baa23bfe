"""The card of an encoder: everything known of it; its weights are read where they are on the disk, and not needed.

Nothing is fetched from the hub. Imports torch only inside the functions that build a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import ConfigError, DependencyError, OvbenchError
from ovbench._base.lazy import require
from ovbench.encoders.base import COMMON_OPTIONS, DType, Encoder, EncoderInfo, Tap
from ovbench.encoders.registry import EncoderSpec, is_own, load_encoder, parse_encoder, stated, with_options

if TYPE_CHECKING:
    from ovbench.encoders.modeling.measure import Flops

WHERE = "ovbench encoders show"
Card = dict[str, Any]
_WEIGHTS = ("*.safetensors", "*.bin")
_STATES = {
    "embedded": "embedded in ovbench",
    "untrained": "UNTRAINED",
    "hub": "on this disk",
    "package": "in an installed package",
    "given": "of the adapter",
}
_BY_WEIGHTS = "depends on the weights"
_OF_EVERY_ADAPTER = {name: COMMON_OPTIONS[name] for name in ("layer", "norm", "dtype")}  # see plugins: `place`


@dataclass(frozen=True, slots=True)
class _Known:
    """What could be found out about an encoder on this machine."""

    state: str
    info: EncoderInfo | None = None
    loaded: bool = False  # with real weights: identity and digest mean something
    flops: Flops | None = None
    flops_missing: str = ""


def encoder_card(text: str, *, measure: bool = False, device: str = "cpu", dtype: DType = "float32") -> Card:
    """Returns everything known of one encoder as plain values; units are part of the names.

    Args:
        text: Spec string.
        measure: Also take images per second and peak memory on this machine.
        device: Where they are taken.
        dtype: Type they are taken in.

    Raises:
        OvbenchError: An unknown name; weights that were named, or are embedded, and cannot be loaded.
    """
    spec = parse_encoder(text, where=WHERE)
    known = _known(spec)
    card = _card(spec, known)
    if measure:
        card["measured"] = _measured(spec, known, device, dtype)
    return card


def _known(spec: EncoderSpec) -> _Known:
    """Loads the encoder where its weights are on the disk, else draws up its network without any."""
    absent = [f"{hub_id} at {revision[:12]}" for hub_id, revision in _hub_ids(spec) if not _in_cache(hub_id, revision)]
    if absent:
        unpinned = any(not revision for _, revision in _hub_ids(spec))
        what = f"not on this disk ({', '.join(absent)})"
        if unpinned:
            what = "not on this disk; no commit of them is pinned: name one"
        if spec.source is not None:
            return _Known(what, flops_missing="the weights that were named are not on this disk")
        return _sketched(spec, what)
    from ovbench.encoders.modeling.sources import nothing_fetched

    try:
        with nothing_fetched():
            encoder = load_encoder(spec)
    except OvbenchError as error:
        if spec.variant.origin == "package" and isinstance(error, DependencyError):
            return _sketched(spec, f"not here: {error.what}; {error.fix}")
        if spec.variant.origin == "hub" and spec.source is None and spec.random_seed is None:
            return _sketched(spec, f"not whole on this disk: {error.what}")
        if spec.variant.origin != "given" or spec.source is not None or spec.random_seed is not None:
            raise
        return _Known(f"none named; {error.fix or error.what}", flops_missing="the network depends on the weights")
    if spec.random_seed is not None:
        state = f"UNTRAINED, seed {spec.random_seed}"
    elif spec.source is not None:
        state = "on this disk"
    else:
        state = _STATES[spec.variant.origin]
    return _loaded(spec, encoder, state)


def _hub_ids(spec: EncoderSpec) -> list[tuple[str, str]]:
    """Returns (hub id, commit) of everything that loading would look for on the hub."""
    if spec.random_seed is not None and spec.source is None:
        return []
    variant = spec.variant
    needed: list[tuple[str, str]] = []
    if spec.source is not None:
        needed += [(spec.source, spec.revision)] if spec.revision else []
    elif variant.origin == "hub":
        needed.append((variant.weights, variant.revision))
    if variant.frontend and variant.origin == "hub":
        named = spec.options.get("vae")
        if named is None:
            needed.append((variant.frontend, variant.frontend_revision))
        elif not Path(named).expanduser().exists():
            hub_id, _, revision = named.partition("@")
            needed.append((hub_id, revision))
    return needed


def _in_cache(hub_id: str, revision: str) -> bool:
    """Whether the hub's cache holds weights of a repository, or of a folder in it, at a commit."""
    if not revision:
        return False
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    owner, repository, *inside = hub_id.split("/")
    try:
        folder = Path(hub.snapshot_download(f"{owner}/{repository}", revision=revision, local_files_only=True), *inside)
    except errors.LocalEntryNotFoundError:
        return False
    return any(next(folder.glob(pattern), None) is not None for pattern in _WEIGHTS)


def _sketched(spec: EncoderSpec, state: str) -> _Known:
    from ovbench.encoders.modeling.measure import sketch

    try:
        info, flops = sketch(spec)
    except OvbenchError as error:  # a library that only some encoders need is not installed, say
        return _Known(state, flops_missing=f"{error.what}; {error.fix}" if error.fix else error.what)
    except Exception as error:
        return _Known(state, flops_missing=_foreign(spec, error))
    return _Known(state, info=info, flops=flops)


def _loaded(spec: EncoderSpec, encoder: Encoder, state: str) -> _Known:
    from ovbench.encoders.modeling.measure import count_flops

    try:
        return _Known(state, info=encoder.info, loaded=True, flops=count_flops(encoder))
    except Exception as error:
        return _Known(state, info=encoder.info, loaded=True, flops_missing=_foreign(spec, error))


def _foreign(spec: EncoderSpec, error: Exception) -> str:
    """Returns why another package's network could not be counted; a fault of our own stays a fault."""
    if spec.family.provider == "ovbench":
        raise error
    return f"its forward pass failed: {type(error).__name__}: {error}"


def _card(spec: EncoderSpec, known: _Known) -> Card:
    family, variant, info = spec.family, spec.variant, known.info
    spec_input = info.input if info is not None else variant.input
    mean_std = (info.mean, info.std) if info is not None else variant.normalisation
    llm_tap, latent_tap = (info.llm_tap, info.latent_tap) if info is not None else (variant.llm_tap, variant.latent_tap)
    return {
        "encoder": spec.canonical,
        "family": family.title,
        "title": variant.title,
        "provider": family.provider,
        "aliases": list(family.aliases),
        "objective": variant.objective,
        "training_data": stated(spec, variant.training_data),
        "licence": stated(spec, variant.licence),
        "citation": variant.citation if is_own(spec) else f"architecture: {variant.citation}",
        "default_of": variant.protocol or None,
        "control": variant.control,
        "for_understanding": variant.for_understanding,
        "weights": {
            "state": known.state,
            "origin": "given" if spec.source else variant.origin,
            "source": spec.source or variant.weights or None,
            "revision": (spec.revision if spec.source else variant.revision) or None,
            "frontend": variant.frontend or None,
            "frontend_revision": variant.frontend_revision or None,
            "loaded": known.loaded,
            "random_seed": info.random_seed if info is not None and known.loaded else None,
            "weights_digest": info.weights_digest if info is not None and known.loaded else None,
            "identity": info.identity if info is not None and known.loaded else None,
        },
        "input": {
            "size_px": list(spec_input.size) if spec_input is not None else _positive([variant.resolution_px] * 2),
            "resample": spec_input.resample if spec_input is not None else None,
            "aspect": spec_input.aspect if spec_input is not None else None,
            "short_side_px": spec_input.short_side if spec_input is not None else None,
            "pad_colour": list(spec_input.pad_colour) if spec_input is not None else None,
            "mean": list(mean_std[0]) if mean_std is not None else None,
            "std": list(mean_std[1]) if mean_std is not None else None,
        },
        "tokens": {
            "num_tokens": info.grid[0] * info.grid[1] if info is not None else variant.num_tokens or None,
            "grid": list(info.grid) if info is not None else None,
            "dim": info.dim if info is not None else variant.dim or None,
            "depth": info.depth if info is not None else variant.depth,
            "num_prefix": info.num_prefix if info is not None else variant.num_prefix,
            "patch_px": info.patch_px if info is not None else None,
            "llm_tap": asdict(llm_tap),
            "latent_tap": asdict(latent_tap),
        },
        "parameters": {
            "num_params": info.num_params if info is not None else variant.num_params or None,
            "num_params_frontend": info.num_params_frontend if info is not None else variant.num_params_frontend,
        },
        "operations": {
            "gflops_per_image": _giga(known.flops.network) if known.flops else None,
            "gflops_per_image_frontend": _giga(known.flops.frontend) if known.flops else None,
            "not_counted_because": known.flops_missing or None,
        },
        "options": {**(COMMON_OPTIONS if family.provider == "ovbench" else _OF_EVERY_ADAPTER), **family.options},
    }


def _positive(values: list[int]) -> list[int] | None:
    return values if all(value > 0 for value in values) else None


def _giga(flops: int) -> float:
    return flops / 1e9


def _measured(spec: EncoderSpec, known: _Known, device: str, dtype: DType) -> Card:
    from ovbench.encoders.modeling.measure import measure

    named = spec
    if not known.loaded:
        if spec.source is not None or spec.variant.origin == "given":
            raise ConfigError(
                f"'{spec.canonical}' cannot be measured: its weights are {known.state}",
                where="--measure",
                fix=f"name weights on this disk: {spec.family.key}:/path",
            )
        named = with_options(spec, weights="random:0")
    weights = "the encoder's own" if known.loaded else "random: the encoder's own are not here, and speed does not tell"
    return {"weights": weights, **measure(named.canonical, device=device, dtype=dtype)}


def rows_of_card(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns a card as rows of text, field and value, with units."""
    rows: dict[str, str] = {name: card[name] for name in ("encoder", "family", "title")}
    if card["provider"] != "ovbench":
        rows["package"] = card["provider"]
    if card["aliases"]:
        rows["aliases"] = ", ".join(card["aliases"])
    rows |= {name.replace("_", " "): card[name] for name in ("objective", "training_data", "licence", "citation")}
    rows["offered to"] = ("understanding, " if card["for_understanding"] else "") + "reconstruction, generation"
    if card["control"]:
        rows["control"] = "yes: stands in every table to be beaten"
    rows |= _weights_rows(card["weights"]) | _input_rows(card["input"]) | _token_rows(card["tokens"])
    rows |= _cost_rows(card["parameters"], card["operations"])
    rows |= {f"?{name}=": text for name, text in card["options"].items()}
    if "measured" in card:
        rows |= _measured_rows(card["measured"])
    return [{"field": name, "value": value} for name, value in rows.items()]


def _weights_rows(weights: Mapping[str, Any]) -> dict[str, str]:
    rows = {"weights": weights["state"]}
    if weights["source"]:
        rows["source"] = weights["source"]
        if weights["origin"] == "hub" or weights["revision"]:
            rows["revision"] = weights["revision"] or "no commit pinned: name one, key/variant:ID@COMMIT"
    if weights["frontend"]:
        rows["front end"] = weights["frontend"]
        if weights["origin"] == "hub":
            rows["front end's revision"] = weights["frontend_revision"] or "no commit pinned: name one, ?vae=ID@COMMIT"
    for name in ("weights_digest", "identity"):
        if weights[name]:
            rows[name.replace("_", " ")] = weights[name]
    return rows


def _input_rows(given: Mapping[str, Any]) -> dict[str, str]:
    size = given["size_px"]
    rows = {"input": _BY_WEIGHTS if size is None else f"{size[0]} x {size[1]} px (height x width)"}
    if given["aspect"] is None:
        return rows | {"preprocessing": _BY_WEIGHTS, "normalisation": _BY_WEIGHTS}
    how = {
        "squash": "squashed to that size",
        "crop": f"short side to {given['short_side_px'] or (size and min(size))} px, then centre crop",
        "pad": f"padded to a square with RGB {given['pad_colour']}, then resized",
    }
    rows["preprocessing"] = f"{given['aspect']}: {how[given['aspect']]}; {given['resample']}, PIL"
    if given["mean"] is None:
        return rows | {"normalisation": _BY_WEIGHTS}
    mean, std = (", ".join(f"{value:.6g}" for value in given[name]) for name in ("mean", "std"))
    return rows | {"normalisation": f"mean {mean}; std {std} (of RGB in 0…1, inside the encoder)"}


def _token_rows(tokens: Mapping[str, Any]) -> dict[str, str]:
    count, grid = tokens["num_tokens"], tokens["grid"]
    rows = {
        "tokens": _BY_WEIGHTS if count is None else f"{count}" + (f" ({grid[0]} x {grid[1]})" if grid else ""),
        "prefix tokens": _BY_WEIGHTS if count is None else f"{tokens['num_prefix']} (class and register tokens)",
        "dim": _BY_WEIGHTS if tokens["dim"] is None else f"{tokens['dim']}",
    }
    if count is not None:
        rows["depth"] = f"{tokens['depth']} blocks" if tokens["depth"] else "0 blocks: convolutional"
    if tokens["patch_px"]:
        rows["patch"] = f"{tokens['patch_px']} px"
    rows["read by a language model"] = _tap(Tap(**tokens["llm_tap"]))
    rows["read by a generator"] = _tap(Tap(**tokens["latent_tap"]))
    return rows


def _tap(tap: Tap) -> str:
    norms = {
        "native": "as the model publishes it" if tap.layer == "final" else "residual stream",
        "none": "residual stream, no norm",
        "layernorm": f"residual stream through a LayerNorm without affine{f', eps {tap.eps:g}' if tap.eps else ''}",
    }
    return f"layer {tap.layer}: {norms[tap.norm]}{', prefix tokens in front' if tap.prefix else ''}"


def _cost_rows(parameters: Mapping[str, Any], operations: Mapping[str, Any]) -> dict[str, str]:
    count, frontend = parameters["num_params"], parameters["num_params_frontend"]
    if count is None and not frontend:
        rows = {"parameters": _BY_WEIGHTS}
    else:
        rows = {"parameters": _apart((count or 0) / 1e6, frontend / 1e6, "M")}
    if operations["gflops_per_image"] is None:
        return rows | {"operations": f"not counted: {operations['not_counted_because']}"}
    values = (operations["gflops_per_image"], operations["gflops_per_image_frontend"])
    return rows | {"operations": f"{_apart(*values, 'GFLOPs')} per image (a multiply-accumulate is 2)"}


def _apart(network: float, frontend: float, unit: str) -> str:
    if not frontend:
        return f"{_number(network)} {unit}"
    if not network:
        return f"{_number(frontend)} {unit} (VAE)"
    return f"{_number(network)} {unit} + {_number(frontend)} {unit} of the VAE in front"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _measured_rows(measured: Mapping[str, Any]) -> dict[str, str]:
    count = measured["num_threads"]
    threads = f", {count} thread{'s' * (count > 1)}" if measured["device"].startswith("CPU") else ""
    rows = {
        "measured on": f"{measured['device']}{threads}, {measured['dtype']}, torch {measured['torch']}",
        "measured with": f"weights: {measured['weights']}",
    }
    for each in measured["passes"]:
        name = f"batch of {each['batch_size']}"
        memory = each["peak_memory_bytes"] / 2**20
        rows[name] = (
            f"{_number(each['images_per_s'])} images/s (median of {each['num_rounds']}); "
            f"peak memory {memory:,.0f} MiB ({measured['memory']})"
        )
    return rows
