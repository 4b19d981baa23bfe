"""Finds encoders: families by listing this folder, and one encoder by its spec string."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant

_NOT_FAMILIES = {"base", "registry", "preprocess", "processor_json", "images", "modeling"}
_LISTING = "ovbench encoders"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """A parsed spec string `key[/variant][:source@revision][?option=value&…]`."""

    text: str
    family: Family
    variant: Variant
    source: str | None = None
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


@cache
def families() -> dict[str, Family]:
    """Returns the families by key; imports the adapter files, which import no torch."""
    found: dict[str, Family] = {}
    names: dict[str, str] = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if module in _NOT_FAMILIES:
            continue
        for family in importlib.import_module(f"ovbench.encoders.{module}").FAMILIES:
            for name in (family.key, *family.aliases):
                if name in names:
                    raise ConfigError(
                        f"the encoder name '{name}' is taken twice, by {names[name]}.py and {module}.py",
                        where="ovbench/encoders",
                        fix="rename one of them",
                    )
                names[name] = module
            found[family.key] = family
    return found


def _by_name() -> dict[str, Family]:
    return {name: family for family in families().values() for name in (family.key, *family.aliases)}


def parse_encoder(text: str, *, protocol: str = "mini", where: str = "--encoder") -> EncoderSpec:
    """Parses a spec string; without a variant the protocol's default variant of the family is taken.

    Raises:
        ConfigError: Unknown family, variant or option (with a suggestion), or a family without a variant for the
            protocol.
    """
    path, _, source = text.partition(":")
    query = revision = ""
    if not Path(source).expanduser().is_file():  # a file's name may hold '@' and '?'
        head, _, query = text.partition("?")
        path, _, source = head.partition(":")
        source, _, revision = source.partition("@")
    key, _, variant_name = path.partition("/")
    table = _by_name()
    if key.lower() not in table:
        raise unknown("encoder", key, table, where=where, listing=_LISTING)
    family = table[key.lower()]
    variants = {variant.name: variant for variant in family.variants}
    if variant_name:
        if variant_name not in variants:
            raise unknown(f"variant of {family.key}", variant_name, variants, where=where, listing=_LISTING)
        variant = variants[variant_name]
    else:
        fitting = [variant for variant in family.variants if variant.protocol == protocol]
        if not fitting:
            raise ConfigError(
                f"the encoder '{family.key}' has no default variant for the protocol '{protocol}'",
                where=where,
                fix=f"name one: {', '.join(f'{family.key}/{name}' for name in variants)}",
            )
        variant = fitting[0]
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in family.options:
            if not family.options:
                raise ConfigError(f"the encoder '{family.key}' takes no options, got '{option}'", where=where)
            raise unknown(f"option of {family.key}", option, family.options, where=where)
    return EncoderSpec(
        text=text,
        family=family,
        variant=variant,
        source=str(Path(source).expanduser().resolve()) if source else None,
        revision=revision or None,
        options=options,
    )


def load_encoder(
    spec: str | EncoderSpec,
    *,
    protocol: str = "mini",
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Encoder:
    """Returns a frozen encoder.

    Args:
        spec: A spec string such as `clip/mini`, or a parsed one.
        protocol: Decides the default variant of a bare family name.
        device: Where it runs.
        dtype: Of the transformer; norms and a VAE stay in float32.

    Raises:
        ConfigError: An unknown name or option.
        DataError: Weights that are missing, damaged or of another architecture.
    """
    parsed = parse_encoder(spec, protocol=protocol) if isinstance(spec, str) else spec
    if parsed.revision is not None:
        raise ConfigError(
            f"'{parsed.text}' names a revision, and local weights have none",
            where="--encoder",
            fix="leave out what follows the '@'",
        )
    request = LoadRequest(
        family=parsed.family.key,
        variant=parsed.variant,
        source=parsed.source,
        options=parsed.options,
        device=device,
        dtype=dtype,
    )
    return parsed.family.load(request)
