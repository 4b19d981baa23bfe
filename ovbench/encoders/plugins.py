"""Encoders of other packages: the decorator `register_encoder` and the entry-point group `ovbench.encoders`.

Nothing here imports anybody's package before its own name is asked for, and nothing that it does wrong passes as ours.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from ovbench._base.errors import ConfigError, DataError, DependencyError, OvbenchError
from ovbench.encoders.base import COMMON_OPTIONS, ENCODER_MEMBERS, Encoder, Family, LoadRequest, Variant

log = logging.getLogger(__name__)
GROUP = "ovbench.encoders"
GUIDE = "docs/add-an-encoder.md"
KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_NOT_STATED = "not stated by the adapter"
# Parameters of a factory that take a checked value, and the common option it comes from; others are its own options.
_FROM_REQUEST = {"random_seed": "weights", "size": "size", "aspect": "aspect"}
_registered: dict[str, Family] = {}
_modules: dict[str, str] = {}  # key → module of the registered factory
_loaded: dict[tuple[str, str], Family] = {}  # (key, entry value) → family
F = TypeVar("F", bound=Callable[..., Encoder])


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of another package, not imported."""

    key: str
    package: str  # name and version
    entry: importlib.metadata.EntryPoint

    @property
    def where(self) -> str:
        """The entry as its package states it."""
        return f"{GROUP}: {self.key} = {self.entry.value}"


def registered() -> Mapping[str, Family]:
    """Returns what was registered in this process, by key."""
    return _registered


def taken_twice(name: str, first: str, second: str) -> ConfigError:
    """Returns the error for a name that two providers claim."""
    return ConfigError(
        f"the encoder name '{name}' is taken twice, by {first} and by {second}",
        where="encoders",
        fix="rename one of them, or uninstall one of the packages; see: ovbench encoders --check",
    )


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
    """Makes a factory `(source, **options) -> Encoder` known in this process; what a table says of it is given here.

    A package states an entry point instead, which is known to the command line and to worker processes; the decorator
    may stand on the same function to give these facts.

    Args:
        key: Name on the command line.
        title: For people; the key by default.
        licence: Of the weights.
        training_data: Of the weights.
        objective: Of the training.
        citation: Paper.
        aliases: Further names, in this process.

    Raises:
        ConfigError: The key is not a name, or is taken by ovbench or by another factory; the same function again (a
            notebook's cell run twice) replaces itself.
    """

    def decorate(factory: F) -> F:
        from ovbench.encoders.registry import built_in_names

        family = family_of(
            factory,
            key=key,
            provider=f"{factory.__module__}.{getattr(factory, '__qualname__', key)}",
            title=title or key,
            licence=licence,
            training_data=training_data,
            objective=objective,
            citation=citation,
            aliases=aliases,
        )
        others = {name: each for each in _registered.values() for name in (each.key, *each.aliases)}
        for name in (key, *aliases):
            _check_key(name, where="register_encoder")
            if name in built_in_names():
                raise taken_twice(name, "ovbench", family.provider)
            if name in others and others[name].provider != family.provider:
                raise taken_twice(name, others[name].provider, family.provider)
        _registered[key] = family
        _modules[key] = str(factory.__module__)
        return factory

    return decorate


def _check_key(key: str, *, where: str) -> None:
    if not KEY.fullmatch(key):
        raise ConfigError(
            f"'{key}' cannot be the name of an encoder",
            where=where,
            fix="use lower-case letters, digits, '.', '_' and '-': the rest has a meaning in key/variant:source?option",
        )


def family_of(factory: Callable[..., Encoder], *, key: str, provider: str, **about: Any) -> Family:
    """Returns the family that a factory stands for; its keyword parameters are the options.

    Raises:
        ConfigError: The factory takes no source.
    """
    facts = {"title": key, "licence": _NOT_STATED, "training_data": _NOT_STATED, "objective": _NOT_STATED,
             "citation": _NOT_STATED, **about}  # fmt: skip
    aliases = facts.pop("aliases", ())
    parameters = _parameters(factory, key, provider)
    options: dict[str, str] = {}
    for name, parameter in parameters[1:]:
        if name in _FROM_REQUEST:
            options[_FROM_REQUEST[name]] = COMMON_OPTIONS[_FROM_REQUEST[name]]
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            options[name if parameter.kind is not parameter.VAR_KEYWORD else "*"] = "option of the adapter"
    variant = Variant(name="default", origin="given", resolution_px=0, num_tokens=0, dim=0, **facts)
    return Family(
        key=key,
        title=facts["title"],
        aliases=aliases,
        variants=(variant,),
        load=partial(_build, factory, dict(parameters[1:]), parameters[0][1].default is not inspect.Parameter.empty),
        options=options,
        provider=provider,
    )


def _parameters(factory: Callable[..., Encoder], key: str, provider: str) -> list[tuple[str, inspect.Parameter]]:
    try:
        parameters = list(inspect.signature(factory).parameters.items())
    except (TypeError, ValueError):
        parameters = []
    if not parameters or parameters[0][1].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise ConfigError(
            f"the factory of '{key}' takes no source",
            where=provider,
            fix=f"define it as (source, **options) -> Encoder ({GUIDE})",
        )
    return parameters


def _build(
    factory: Callable[..., Encoder],
    parameters: Mapping[str, inspect.Parameter],
    works_without_source: bool,
    request: LoadRequest,
) -> Encoder:
    """Calls a factory with what was asked for, and refuses what it cannot do or does not return."""
    wanted: dict[str, Any] = dict(request.options)
    for name, option in _FROM_REQUEST.items():
        value = getattr(request, name)
        if value is None:
            continue
        if name not in parameters:
            raise ConfigError(
                f"the encoder '{request.family}' does not take the option '{option}'",
                where="--encoder",
                fix=f"leave it out; or give its factory a parameter '{name}' ({GUIDE})",
            )
        wanted[name] = value
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in wanted:
            raise ConfigError(
                f"the encoder '{request.family}' needs the option '{name}'",
                where="--encoder",
                fix=f"write {request.family}?{name}=…",
            )
    if request.source is None and request.random_seed is None and not works_without_source:
        raise ConfigError(
            f"the encoder '{request.family}' needs weights",
            where="--encoder",
            fix=f"name a file or a folder: {request.family}:/path",
        )

    def make() -> Any:
        if request.random_seed is None:
            return factory(request.source, **wanted)
        from ovbench.encoders.modeling.sources import seeded

        return seeded(cast(Any, lambda: factory(request.source, **wanted)), request.random_seed)

    return _honest(_placed(_check_encoder(_call(make, request), request), request), request)


def _honest(encoder: Encoder, request: LoadRequest) -> Encoder:
    """Refuses an encoder that was not made as it was asked for: its results would carry the wrong name."""
    info, side = encoder.info, request.size
    if request.random_seed is not None and info.random_seed != request.random_seed:
        wrong, fix = "weights", "pass random_seed on: TokenEncoder(…, random_seed=random_seed)"
    elif side is not None and tuple(info.input.size) != (side, side):
        wrong, fix = "size", "use the size, or refuse it"
    elif request.aspect is not None and info.input.aspect != request.aspect:
        wrong, fix = "aspect", "use the aspect, or refuse it"
    elif request.llm_tap is not None and info.llm_tap != request.llm_tap:
        wrong, fix = "layer", "pass llm_tap on: TokenEncoder(…, llm_tap=request.llm_tap)"
    else:
        return encoder
    raise ConfigError(
        f"the adapter of '{request.family}' was given the option '{wrong}' and did not use it",
        where="--encoder",
        fix=f"leave it out; in the adapter: {fix}",
    )


def _placed(encoder: Encoder, request: LoadRequest) -> Encoder:
    place = getattr(encoder, "place", None)
    if callable(place):
        moved = _call(
            lambda: place(device=request.device, dtype=request.dtype, llm_tap=request.llm_tap, name=request.name),
            request,
        )
        return _check_encoder(moved, request)
    if request.device != "cpu" or request.dtype != "float32" or request.llm_tap is not None:
        raise ConfigError(
            f"the encoder '{request.family}' can only run as it was made: on the CPU, in float32, with its own tap",
            where="--encoder",
            fix=f"derive it from ovbench.TokenEncoder, or give it a method 'place' ({GUIDE})",
        )
    return encoder


def _call(make: Callable[[], Any], request: LoadRequest) -> Any:
    """Runs code of an adapter: what it prints goes to stderr, and its exceptions say whose they are."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return make()
    except OvbenchError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, FileNotFoundError) and request.source and not os.path.exists(request.source):
            raise DataError(
                f"no such file or folder '{os.path.basename(request.source)}'",
                where=os.path.dirname(request.source),
                fix=f"check --encoder {request.family}:…",
            ) from error
        raise DependencyError(
            f"the adapter of '{request.family}' failed: {_summary(error)}",
            where=_last_frame(error),
            fix="mend the adapter; the whole traceback: "
            f"python -c \"import ovbench; ovbench.load_encoder('{request.family}…')\"",
        ) from error


def _check_encoder(encoder: Any, request: LoadRequest) -> Encoder:
    missing = [name for name in ENCODER_MEMBERS if not hasattr(type(encoder), name) and not hasattr(encoder, name)]
    if missing:
        raise ConfigError(
            f"the adapter of '{request.family}' returned {_kind(encoder)}, which is no Encoder: "
            f"it has no {', '.join(missing)}",
            where="--encoder",
            fix=f"return an ovbench.TokenEncoder, or an object with {', '.join(ENCODER_MEMBERS)} ({GUIDE})",
        )
    return encoder


def find_plugins() -> dict[str, tuple[Plugin, ...]]:
    """Returns the entry points of the group by key, more than one where packages claim the same; imports none."""
    found: dict[str, tuple[Plugin, ...]] = {}
    for entry in sorted(_entries(), key=lambda entry: (entry.name, entry.value)):
        dist = entry.dist
        package = f"{dist.name} {dist.version}" if dist is not None and dist.name else entry.value
        found[entry.name] = (*found.get(entry.name, ()), Plugin(entry.name, package, entry))
    return found


def _entries() -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=GROUP))
    except Exception:  # one package with damaged metadata must not take all others away: they are read one by one
        found: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
        for dist in importlib.metadata.distributions():
            try:
                found |= {(each.name, each.value): each for each in dist.entry_points if each.group == GROUP}
            except Exception as error:
                log.warning("the entry points of %s cannot be read: %s", dist.name, _summary(error))
        return list(found.values())


def is_registered_by(plugin: Plugin) -> bool:
    """Whether the factory registered under a plug-in's key comes from the plug-in's own top-level package."""
    return _modules.get(plugin.key, "").partition(".")[0] == plugin.entry.module.partition(".")[0]


def load_plugin(plugin: Plugin) -> Family:
    """Imports a plug-in and returns its family.

    Raises:
        DependencyError: It raises when it is imported.
        ConfigError: Its object is neither a factory nor a Family, or the Family has another key or no variants.
    """
    key, provider = plugin.key, plugin.package
    if (key, plugin.entry.value) in _loaded:
        return _loaded[key, plugin.entry.value]
    _check_key(key, where=plugin.where)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = plugin.entry.load()
    except OvbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise DependencyError(
            f"the plug-in '{key}' of {provider} cannot be imported: {_summary(error)}",
            where=plugin.where,
            fix=f"mend or uninstall {provider}; its traceback: ovbench encoders --check",
        ) from error
    if isinstance(found, Family):
        family = _checked(found, plugin)
    elif callable(found) and key in _registered and is_registered_by(plugin):
        family = replace(_registered[key], provider=provider)
    elif callable(found):
        family = family_of(cast(Callable[..., Encoder], found), key=key, provider=provider)
    else:
        raise ConfigError(
            f"the plug-in '{key}' of {provider} is {_kind(found)}, neither a factory nor a Family",
            where=plugin.where,
            fix=f"point the entry at a function (source, **options) -> Encoder ({GUIDE})",
        )
    _loaded[key, plugin.entry.value] = family
    return family


def _checked(family: Family, plugin: Plugin) -> Family:
    if family.key != plugin.key:
        raise ConfigError(
            f"the plug-in '{plugin.key}' of {plugin.package} calls itself '{family.key}'",
            where=plugin.where,
            fix="give both the same name",
        )
    if not family.variants:
        raise ConfigError(f"the plug-in '{plugin.key}' of {plugin.package} has no variants", where=plugin.where)
    if family.aliases:  # they would be known only after the import that a lookup is there to avoid
        raise ConfigError(
            f"the plug-in '{plugin.key}' of {plugin.package} has aliases ({', '.join(family.aliases)})",
            where=plugin.where,
            fix="leave them out: a package's encoder is known by the name of its entry point",
        )

    def load(request: LoadRequest) -> Encoder:
        return _honest(_check_encoder(_call(lambda: family.load(request), request), request), request)

    return replace(family, provider=plugin.package, load=load)


def plugin_faults() -> dict[str, str]:
    """Imports every plug-in and returns, by package and entry, the traceback or the message of each that is broken."""
    faults: dict[str, str] = {}
    for plugin in (plugin for plugins in find_plugins().values() for plugin in plugins):
        try:
            load_plugin(plugin)
        except OvbenchError as error:
            cause = error.__cause__
            faults[f"{plugin.package}: {plugin.key}"] = (
                str(error) if cause is None else "".join(traceback.format_exception(cause)).rstrip()
            )
    return faults


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _last_frame(error: BaseException) -> str:
    """Where an adapter failed: its own line, whatever library that called."""
    ours = Path(__file__).parent
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) not in (Path(__file__), ours / "modeling" / "sources.py"):
            return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
    return "the call of the factory"
