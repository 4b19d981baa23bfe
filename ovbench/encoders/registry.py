"""Finds encoders: families by listing this folder and other packages' entry points, one encoder by its spec string."""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.encoders.base import COMMIT, COMMON_OPTIONS, Aspect, DType, Encoder, Family, LoadRequest, Tap, Variant
from ovbench.encoders.plugins import GROUP, Plugin, find_plugins, is_registered_by, load_plugin, registered, taken_twice

_NOT_FAMILIES = {"base", "registry", "plugins", "card", "preprocess", "processor_json", "vae_configs", "modeling"}
_LISTING = "ovbench encoders"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")
_DTYPES: Mapping[str, DType] = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16",
    "fp16": "float16",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """A parsed spec string `key[/variant][:source@revision][?option=value&…]`."""

    text: str
    family: Family
    variant: Variant
    source: str | None = None  # absolute path, or hub id
    revision: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`family/variant`."""
        return f"{self.family.key}/{self.variant.name}"

    @property
    def canonical(self) -> str:
        """The spec in its longest form: equal for every way of writing the same encoder."""
        tail = f":{self.source}" if self.source else ""
        tail += f"@{self.revision}" if self.revision else ""
        options = "&".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return self.name + tail + (f"?{options}" if options else "")

    @property
    def random_seed(self) -> int | None:
        """Seed of untrained weights; None: trained ones are asked for."""
        value = _common_options(self.family, self.options).get("weights", "")
        return int(value.removeprefix("random:")) if value.startswith("random:") else None

    @property
    def aspect(self) -> Aspect | None:
        """The aspect policy that the options ask for; None where they say nothing of it."""
        return cast(Aspect | None, _common_options(self.family, self.options).get("aspect"))

    @property
    def llm_tap(self) -> Tap | None:
        """The tap that the options ask for; None where they say nothing of it."""
        common = _common_options(self.family, self.options)
        if not {"layer", "norm"} & set(common):
            return None
        tap = self.variant.llm_tap
        if layer := common.get("layer"):
            tap = replace(tap, layer="final" if layer == "final" else int(layer))
        if norm := common.get("norm"):
            tap = replace(tap, norm=cast(Any, norm))  # Tap checks it
        return tap

    @property
    def origin(self) -> str:
        """Where the weights come from, in a few words."""
        if self.random_seed is not None:
            return f"UNTRAINED weights, seed {self.random_seed}"
        if self.source:
            return f"{self.source}@{self.revision}" if self.revision else self.source
        match self.variant.origin:
            case "untrained":
                return "untrained"
            case "embedded":
                return "embedded weights"
            case "package":
                return f"package {self.variant.weights} {self.variant.revision}"
            case "hub":
                return f"{self.variant.weights}@{self.variant.revision[:12] or '(no revision)'}"
            case "given":
                return "weights of the adapter"


def is_own(spec: EncoderSpec) -> bool:
    """Returns whether the weights are those that the variant describes; an adapter of others speaks for itself."""
    return spec.source in (None, spec.variant.weights) or spec.family.provider != "ovbench"


def stated(spec: EncoderSpec, text: str) -> str:
    """Returns what a variant says of its own weights, or why it says nothing of these."""
    if spec.random_seed is not None:
        return "none: untrained weights"
    return text if is_own(spec) else "not known: weights that the user named"


@cache
def built_in_families() -> dict[str, Family]:
    """Returns the families of this folder by key; imports the adapter files, which import no torch."""
    found: dict[str, Family] = {}
    names: dict[str, str] = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if module in _NOT_FAMILIES:
            continue
        for family in importlib.import_module(f"ovbench.encoders.{module}").FAMILIES:
            for name in (family.key, *family.aliases):
                if name in names:
                    raise taken_twice(name, f"{names[name]}.py", f"{module}.py")
                names[name] = module
            found[family.key] = family
    return found


def built_in_names() -> dict[str, Family]:
    """Returns the families of this folder by key and alias."""
    return _names(built_in_families())


def families() -> dict[str, Family]:
    """Returns all families that are known without importing anybody's plug-in: built-in and registered ones."""
    return {**built_in_families(), **registered()}


def _names(table: Mapping[str, Family]) -> dict[str, Family]:
    return {name: family for family in table.values() for name in (family.key, *family.aliases)}


def providers(name: str, plugins: Mapping[str, tuple[Plugin, ...]]) -> list[str]:
    """Returns who claims a name: ovbench, what was registered in this process, packages; more than one is a fault."""
    found = ["ovbench"] if name in built_in_names() else []
    claims = plugins.get(name, ())
    own = _names(registered()).get(name)
    if own is not None and not any(is_registered_by(plugin) for plugin in claims):
        found.append(own.provider)
    return [*found, *(plugin.package for plugin in claims)]


def find_family(name: str, *, where: str = "--encoder") -> Family:
    """Returns a family by key or alias; imports a plug-in only where its own name is asked for.

    Raises:
        ConfigError: An unknown name, with a suggestion; or a name that is taken twice.
        DependencyError: The plug-in of that name cannot be imported.
    """
    plugins = find_plugins()
    if len(claims := providers(name, plugins)) > 1:
        raise taken_twice(name, claims[0], claims[1])
    table = _names(families())
    if name in plugins:
        return load_plugin(plugins[name][0])
    if name in table:
        return table[name]
    error = unknown("encoder", name, {**table, **plugins}, where=where, listing=_LISTING)
    if multiprocessing.parent_process() is not None:
        error.fix += (
            ". This is a worker process: what register_encoder made known in another process is not known here; "
            f"state an entry point of the group {GROUP} instead (docs/add-an-encoder.md)"
        )
    raise error


def parse_encoder(text: str, *, protocol: str = "mini", where: str = "--encoder") -> EncoderSpec:
    """Parses a spec string; without a variant the protocol's default variant of the family is taken.

    Raises:
        ConfigError: Unknown family, variant or option (with a suggestion), a bad value, a hub id without a commit, or
            a family without a variant for the protocol.
    """
    path, _, source = text.partition(":")
    query = revision = ""
    if not Path(source).expanduser().is_file():  # a file's name may hold '@' and '?'
        head, _, query = text.partition("?")
        path, _, source = head.partition(":")
        if not Path(source).expanduser().exists():
            source, _, revision = source.partition("@")
    key, _, variant_name = path.partition("/")
    family = find_family(key.lower(), where=where)
    if ":" in text.partition("?")[0] and not source:
        raise ConfigError(
            f"'{text}' names nothing after the ':'", where=where, fix="name weights there, or leave the ':' out"
        )
    options = _read_options(query, where)
    _check_options(family, options, where)
    source, revision = _check_source(source, revision, text, where)
    return EncoderSpec(
        text=text,
        family=family,
        variant=_choose_variant(family, variant_name, protocol, where, has_source=bool(source)),
        source=source or None,
        revision=revision or None,
        options=options,
    )


def _choose_variant(family: Family, name: str, protocol: str, where: str, *, has_source: bool) -> Variant:
    variants = {variant.name: variant for variant in family.variants}
    if name:
        if name not in variants:
            raise unknown(f"variant of {family.key}", name, variants, where=where, listing=_LISTING)
        return variants[name]
    fitting = [variant for variant in family.variants if variant.protocol == protocol]
    if not fitting and len(variants) == 1:
        fitting = list(family.variants)
    if not fitting and has_source:  # the weights are named; the variant only says how such weights are read
        fitting = [variant for variant in family.variants if variant.protocol]
    if not fitting:
        raise ConfigError(
            f"the encoder '{family.key}' has no default variant for the protocol '{protocol}'",
            where=where,
            fix=f"name one: {', '.join(f'{family.key}/{each}' for each in variants)}",
        )
    return fitting[0]


def _read_options(query: str, where: str) -> dict[str, str]:
    """Returns the options of a spec string; none may be given twice."""
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for name in options:
        if sum(name == each for each, _ in pairs) > 1:
            raise ConfigError(f"the option '{name}' is given twice", where=where, fix="give it once")
    return options


def _check_options(family: Family, options: Mapping[str, str], where: str) -> None:
    known = {**COMMON_OPTIONS, **family.options}
    for option, value in options.items():
        if option not in known and "*" not in known:
            raise unknown(f"option of {family.key}", option, known, where=where)
        if option not in _common_options(family, options):
            continue  # checked by the family
        pattern, wanted = _VALUES[option]
        if not re.fullmatch(pattern, value):
            raise ConfigError(f"the option '{option}' cannot be '{value}'", where=where, fix=f"use {wanted}")


def _common_options(family: Family, options: Mapping[str, str]) -> dict[str, str]:
    """Returns the options that are common ones; a family may have one of its own under the same name."""
    return {
        name: value
        for name, value in options.items()
        if name in COMMON_OPTIONS and family.options.get(name, COMMON_OPTIONS[name]) == COMMON_OPTIONS[name]
    }


_VALUES = {
    "weights": (r"random:\d{1,9}", "weights=random:SEED with a whole number, e.g. weights=random:0"),
    "layer": (r"final|-?\d{1,4}", "layer=final or a number, e.g. layer=-2"),
    "norm": (r"native|none|layernorm", "norm=native, norm=none or norm=layernorm"),
    "size": (r"[1-9]\d{0,4}", "a number of pixels, e.g. size=224"),
    "aspect": (r"squash|crop|pad", "aspect=squash, aspect=crop or aspect=pad"),
    "dtype": ("|".join(_DTYPES), f"one of: {', '.join(_DTYPES)}"),
}


def _check_source(source: str, revision: str, text: str, where: str) -> tuple[str, str]:
    """Returns the absolute path, or the hub id with its commit."""
    if not source:
        if revision:
            raise ConfigError(f"'{text}' names a revision of nothing", where=where, fix="write key/variant:source@…")
        return "", ""
    path = Path(source).expanduser()
    looks_local = path.exists() or source.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(source)
    if looks_local:
        if revision:
            raise ConfigError(
                f"'{text}' names a revision, and local weights have none",
                where=where,
                fix="leave out what follows the '@'",
            )
        return str(path.resolve()), ""
    if not COMMIT.fullmatch(revision):
        raise ConfigError(
            f"the hub id '{source}' needs the commit of its repository, got '{revision or 'none'}'",
            where=where,
            fix=f"write {source}@ and the 40 hex digits of the commit: a branch or a tag can move "
            f"(there is no local file or folder '{source}')",
        )
    return source, revision


def load_encoder(
    spec: str | EncoderSpec,
    *,
    protocol: str = "mini",
    device: str = "cpu",
    dtype: DType = "float32",
) -> Encoder:
    """Returns a frozen encoder.

    Args:
        spec: A spec string such as `clip/mini`, or a parsed one.
        protocol: Decides the default variant of a bare family name.
        device: Where it runs.
        dtype: Of the transformer; norms and a VAE stay in float32. The spec's own option `dtype` comes first.

    Raises:
        ConfigError: An unknown name or option.
        DataError: Weights that are missing, damaged or of another architecture.
        DependencyError: A library of the adapter, or the device, is not there.
    """
    parsed = parse_encoder(spec, protocol=protocol) if isinstance(spec, str) else spec
    common = _common_options(parsed.family, parsed.options)
    options = {name: value for name, value in parsed.options.items() if name not in common}
    return parsed.family.load(
        LoadRequest(
            family=parsed.family.key,
            variant=parsed.variant,
            source=parsed.source,
            revision=parsed.revision,
            options=options,
            random_seed=parsed.random_seed,
            llm_tap=parsed.llm_tap,
            size=int(common["size"]) if "size" in common else None,
            aspect=cast(Aspect | None, common.get("aspect")),
            device=device,
            dtype=_DTYPES[common["dtype"]] if "dtype" in common else dtype,
        )
    )


def with_options(spec: EncoderSpec, **options: str) -> EncoderSpec:
    """Returns the spec with options added or replaced, e.g. `weights="random:0"`."""
    merged = {**spec.options, **options}
    _check_options(spec.family, merged, "options")
    return replace(spec, options=merged)
