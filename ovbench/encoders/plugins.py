"""Encoders of other packages: the decorator `register_encoder` and the entry-point group `ovbench.encoders`."""

from __future__ import annotations

import importlib.metadata
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from ovbench._base.errors import ConfigError, DependencyError, OvbenchError
from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant

GROUP = "ovbench.encoders"
_NOT_STATED = "not stated by the adapter"
_registered: dict[str, Family] = {}
_loaded: dict[str, Family] = {}
F = TypeVar("F", bound=Callable[..., Encoder])


def registered() -> Mapping[str, Family]:
    """Returns what was registered in this process, by key."""
    return _registered


def register_encoder(
    key: str,
    *,
    title: str = "",
    licence: str = _NOT_STATED,
    training_data: str = _NOT_STATED,
    objective: str = _NOT_STATED,
    citation: str = _NOT_STATED,
    aliases: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Makes a factory `(source, **options) -> Encoder` known under a key; what a table says of it is given here.

    Args:
        key: Name on the command line.
        title: For people; the key by default.
        licence: Of the weights.
        training_data: Of the weights.
        objective: Of the training.
        citation: Paper.
        aliases: Further names.

    Raises:
        ConfigError: The key is taken by another factory.
    """

    def decorate(factory: F) -> F:
        family = family_of(
            factory,
            key=key,
            provider=str(factory.__module__),
            title=title or key,
            licence=licence,
            training_data=training_data,
            objective=objective,
            citation=citation,
            aliases=aliases,
        )
        before = _registered.get(key)
        if before is not None and before.provider != family.provider:
            raise ConfigError(
                f"the encoder name '{key}' is taken twice, by {before.provider} and {family.provider}",
                where="register_encoder",
                fix="rename one of them",
            )
        _registered[key] = family
        return factory

    return decorate


def family_of(factory: Callable[..., Encoder], *, key: str, provider: str, **about: Any) -> Family:
    """Returns the family that a factory stands for; its keyword parameters are the options."""
    facts = {"title": key, "licence": _NOT_STATED, "training_data": _NOT_STATED, "objective": _NOT_STATED,
             "citation": _NOT_STATED, **about}  # fmt: skip
    aliases = facts.pop("aliases", ())
    options = {
        name if parameter.kind is not parameter.VAR_KEYWORD else "*": "option of the adapter"
        for name, parameter in list(inspect.signature(factory).parameters.items())[1:]
        if parameter.kind is not parameter.VAR_POSITIONAL
    }
    variant = Variant(name="default", origin="given", resolution_px=0, num_tokens=0, dim=0, **facts)

    def load(request: LoadRequest) -> Encoder:
        return _build(factory, request, provider)

    return Family(
        key=key,
        title=facts["title"],
        aliases=aliases,
        variants=(variant,),
        load=load,
        options=options,
        provider=provider,
    )


def _build(factory: Callable[..., Encoder], request: LoadRequest, provider: str) -> Encoder:
    wanted: dict[str, Any] = dict(request.options)
    asked = {"size": request.size, "aspect": request.aspect, "random_seed": request.random_seed}
    for name, value in asked.items():
        if value is None:
            continue
        option = "weights" if name == "random_seed" else name
        raise ConfigError(
            f"the encoder '{request.family}' does not take the option '{option}'",
            where="--encoder",
            fix=f"its factory in {provider} would have to take a parameter '{option}'",
        )
    try:
        encoder = factory(request.source, **wanted)
    except OvbenchError:
        raise
    except Exception as error:
        raise DependencyError(
            f"the encoder '{request.family}' of {provider} failed: {type(error).__name__}: {error}",
            where=f"--encoder {request.family}",
            fix=f"mend the adapter; its traceback: ovbench encoders --check\n{_last_frame(error)}",
        ) from error
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"the factory of '{request.family}' returned {type(encoder).__name__}, which is no Encoder",
            where=provider,
            fix="return an object with info, prepare, features, llm_tokens, latents and fingerprint "
            "(docs/add-an-encoder.md)",
        )
    return _placed(encoder, request)


def _placed(encoder: Encoder, request: LoadRequest) -> Encoder:
    place = getattr(encoder, "place", None)
    if callable(place):
        placed: Any = place(device=request.device, dtype=request.dtype, llm_tap=request.llm_tap, name=request.name)
        return placed
    if request.device != "cpu" or request.dtype != "float32" or request.llm_tap is not None:
        raise ConfigError(
            f"the encoder '{request.family}' can only run as it was made: on the CPU, in float32, with its own tap",
            where="--encoder",
            fix="derive it from ovbench.TokenEncoder (docs/add-an-encoder.md)",
        )
    return encoder


def find_plugins() -> list[tuple[str, str]]:
    """Returns (key, package) of every entry point of the group; imports none of them."""
    return sorted((entry.name, _package(entry)) for entry in importlib.metadata.entry_points(group=GROUP))


def _package(entry: importlib.metadata.EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version}" if dist is not None else entry.value


def load_plugin(key: str) -> Family:
    """Imports a plug-in and returns its family.

    Raises:
        DependencyError: It raises when it is imported.
        ConfigError: Its object is neither a factory nor a Family, or the Family has another key.
    """
    if key in _loaded:
        return _loaded[key]
    (entry,) = (each for each in importlib.metadata.entry_points(group=GROUP) if each.name == key)
    provider = _package(entry)
    try:
        found = entry.load()
    except Exception as error:
        raise DependencyError(
            f"the plug-in '{key}' of {provider} cannot be imported: {type(error).__name__}: {error}",
            where=f"{GROUP}: {key} = {entry.value}",
            fix=f"mend or uninstall {provider}; its traceback: ovbench encoders --check",
        ) from error
    if isinstance(found, Family):
        family = replace(found, provider=provider)
    elif key in _registered and callable(found):
        family = replace(_registered[key], provider=provider)
    elif callable(found):
        family = family_of(cast(Callable[..., Encoder], found), key=key, provider=provider)
    else:
        raise ConfigError(
            f"the plug-in '{key}' of {provider} is {type(found).__name__}, neither a factory nor a Family",
            where=f"{GROUP}: {key} = {entry.value}",
            fix="point the entry at a function (source, **options) -> Encoder (docs/add-an-encoder.md)",
        )
    if family.key != key:
        raise ConfigError(
            f"the plug-in '{key}' of {provider} calls itself '{family.key}'",
            where=f"{GROUP}: {key} = {entry.value}",
            fix="give both the same name",
        )
    _loaded[key] = family
    return family


def plugin_faults() -> dict[str, str]:
    """Imports every plug-in and returns the traceback of each that fails, by key."""
    faults: dict[str, str] = {}
    for key, _ in find_plugins():
        try:
            load_plugin(key)
        except OvbenchError as error:
            faults[key] = "".join(traceback.format_exception(error.__cause__ or error))
    return faults


def _last_frame(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"         ({frame.filename}, line {frame.lineno})"
