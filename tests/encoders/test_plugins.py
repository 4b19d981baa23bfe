"""Encoders registered in this process: what reaches the factory, and what is refused in its name."""

from __future__ import annotations

import importlib.metadata
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DependencyError
from ovbench.encoders import plugins
from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.plugins import register_encoder
from ovbench.encoders.registry import find_family, load_encoder, parse_encoder


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_registered", "_modules", "_loaded"):
        monkeypatch.setattr(plugins, table, {})


def clip(source: str | None = None, **_options: str) -> Encoder:
    del source
    return load_encoder("clip/mini")


def test_a_registered_factory_is_loaded_under_its_own_name() -> None:
    register_encoder("mine", title="My net", licence="MIT", aliases=("my-net",))(clip)
    assert load_encoder("mine").info.name == "mine/default"
    assert find_family("my-net").variants[0].licence == "MIT"


def test_the_same_function_may_register_again_and_another_may_not() -> None:
    register_encoder("mine")(clip)
    register_encoder("mine")(clip)

    def other(source: str | None = None) -> Encoder:
        return clip(source)

    with pytest.raises(ConfigError) as caught:
        register_encoder("mine")(other)
    assert "taken twice" in caught.value.what
    assert f"{clip.__module__}.clip" in caught.value.what
    assert "other" in caught.value.what


@pytest.mark.parametrize("key", ["clip", "openvision3"])
def test_a_built_in_name_or_alias_cannot_be_registered(key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is taken twice, by ovbench and by"):
        register_encoder(key)(clip)
    with pytest.raises(ConfigError, match=f"'{key}' is taken twice, by ovbench and by"):
        register_encoder("mine", aliases=(key,))(clip)
    assert find_family(key).provider == "ovbench"


@pytest.mark.parametrize("key", ["My", "a/b", "a:b", "", "a b", "ä"])
def test_a_key_that_cannot_be_written_in_a_spec_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of an encoder"):
        register_encoder(key)(clip)


def test_keyword_parameters_are_the_options_and_a_wrong_one_is_suggested() -> None:
    seen: dict[str, Any] = {}

    @register_encoder("mine")
    def build(source: str | None = None, *, width: str = "96") -> Encoder:
        seen.update(source=source, width=width)
        return clip()

    load_encoder("mine:/w.pt?width=128")
    assert seen == {"source": "/w.pt", "width": "128"}
    with pytest.raises(ConfigError, match="unknown option of mine 'widht'") as caught:
        parse_encoder("mine?widht=1")
    assert "did you mean 'width'" in caught.value.fix


def test_a_factory_that_takes_any_option_gets_it() -> None:
    seen: dict[str, str] = {}

    @register_encoder("mine")
    def build(source: str | None = None, **options: str) -> Encoder:
        seen.update(options)
        return clip(source)

    load_encoder("mine?anything=1")
    assert seen == {"anything": "1"}


def test_a_parameter_without_a_default_is_an_option_that_is_needed() -> None:
    @register_encoder("mine")
    def build(source: str | None = None, *, width: str) -> Encoder:
        return clip(source, width=width)

    with pytest.raises(ConfigError, match="'mine' needs the option 'width'") as caught:
        load_encoder("mine")
    assert "mine?width=…" in caught.value.fix
    assert load_encoder("mine?width=1").info.dim == 128


def test_a_source_without_a_default_is_needed() -> None:
    @register_encoder("mine")
    def build(source: str) -> Encoder:
        return clip(source)

    with pytest.raises(ConfigError, match="'mine' needs weights") as caught:
        load_encoder("mine")
    assert "mine:/path" in caught.value.fix


def test_checked_values_of_common_options_reach_the_parameters_of_that_name() -> None:
    seen: dict[str, Any] = {}

    @register_encoder("mine")
    def build(source: str | None = None, *, size: int | None = None, random_seed: int | None = None) -> Encoder:
        seen.update(source=source, size=size, random_seed=random_seed)
        return load_encoder(f"clip/mini?weights=random:{random_seed}")

    load_encoder("mine?size=64&weights=random:7")
    assert seen == {"source": None, "size": 64, "random_seed": 7}
    with pytest.raises(ConfigError, match="the option 'size' cannot be 'big'"):
        load_encoder("mine?size=big")


@pytest.mark.parametrize(
    ("option", "name"), [("size=64", "size"), ("aspect=pad", "aspect"), ("weights=random:0", "weights")]
)
def test_a_common_option_that_the_factory_does_not_take_is_refused(option: str, name: str) -> None:
    @register_encoder("mine")
    def build(source: str | None = None) -> Encoder:
        return clip(source)

    with pytest.raises(ConfigError, match=f"'mine' does not take the option '{name}'"):
        load_encoder(f"mine?{option}")


def test_an_option_that_was_taken_and_not_used_is_refused() -> None:
    @register_encoder("mine")
    def build(
        source: str | None = None, *, size: int | None = None, aspect: str | None = None, random_seed: int | None = None
    ) -> Encoder:
        del size, aspect, random_seed
        return clip(source)

    for option, name in (("size=32", "size"), ("aspect=pad", "aspect"), ("weights=random:3", "weights")):
        with pytest.raises(ConfigError, match=f"'mine' was given the option '{name}' and did not use it"):
            load_encoder(f"mine?{option}")


def test_an_option_of_the_factory_may_have_the_name_of_a_common_one() -> None:
    seen: dict[str, str] = {}

    @register_encoder("mine")
    def build(source: str | None = None, *, layer: str = "x", weights: str = "y") -> Encoder:
        seen.update(layer=layer, weights=weights)
        return clip(source)

    encoder = load_encoder("mine?layer=upper&weights=ema")
    assert seen == {"layer": "upper", "weights": "ema"}
    assert encoder.info.llm_tap.layer == "final"


def test_device_dtype_and_tap_reach_a_token_encoder() -> None:
    register_encoder("mine")(clip)
    encoder = load_encoder("mine?layer=-2&norm=none", dtype="bfloat16")
    assert isinstance(encoder, TokenEncoder)
    assert (encoder.info.llm_tap.layer, encoder.info.llm_tap.norm) == (-2, "none")
    assert encoder.llm_tokens(torch.rand(1, 3, 64, 64)).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="unknown device"):
        load_encoder("mine", device="tpu")
    with pytest.raises(ConfigError, match="tap layer 99"):
        load_encoder("mine?layer=99")


class Plain:
    """An encoder of its own making, which cannot be placed."""

    def __init__(self, inner: Encoder) -> None:
        self.info = inner.info
        for name in ("prepare", "features", "llm_tokens", "latents", "fingerprint"):
            setattr(self, name, getattr(inner, name))


def test_an_encoder_without_place_runs_as_it_was_made_and_refuses_the_rest() -> None:
    register_encoder("mine")(lambda source=None: Plain(clip(source)))  # pyright: ignore[reportArgumentType]
    assert load_encoder("mine").info.dim == 128
    with pytest.raises(ConfigError, match="can only run as it was made"):
        load_encoder("mine", dtype="bfloat16")
    with pytest.raises(ConfigError, match="can only run as it was made"):
        load_encoder("mine", device="cuda")
    with pytest.raises(ConfigError, match="can only run as it was made"):
        load_encoder("mine?layer=-2")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "returned None, which is no Encoder"),
        (3, "returned a int, which is no Encoder"),
        ("clip", "returned a str, which is no Encoder"),
    ],
)
def test_a_factory_that_returns_no_encoder_is_refused(value: object, text: str) -> None:
    register_encoder("mine")(lambda source=None: value)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=text) as caught:
        load_encoder("mine")
    assert "docs/add-an-encoder.md" in caught.value.fix


def test_what_is_missing_of_an_encoder_is_named() -> None:
    plain = Plain(clip())
    del plain.latents, plain.fingerprint  # pyright: ignore[reportAttributeAccessIssue]
    register_encoder("mine")(lambda source=None: plain)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="which is no Encoder") as caught:
        load_encoder("mine")
    assert caught.value.what.endswith("it has no latents, fingerprint")


@pytest.mark.parametrize("error", [ValueError("no such layer"), KeyError("w"), SystemExit(3), AssertionError()])
def test_a_factory_that_fails_says_where(error: BaseException) -> None:
    @register_encoder("mine")
    def build(source: str | None = None) -> Encoder:
        raise error

    with pytest.raises(DependencyError, match="the adapter of 'mine' failed") as caught:
        load_encoder("mine")
    assert type(error).__name__ in caught.value.what
    assert "test_plugins.py" in caught.value.where
    assert "in build" in caught.value.where


def test_an_error_that_the_adapter_words_itself_is_kept() -> None:
    @register_encoder("mine")
    def build(source: str | None = None) -> Encoder:
        raise ConfigError("mine needs a licence key", where="mine")

    with pytest.raises(ConfigError, match="needs a licence key"):
        load_encoder("mine")


@pytest.mark.parametrize("factory", [lambda: None, lambda *, source: None, lambda **options: None], ids=range(3))
def test_a_factory_that_takes_no_source_is_refused(factory: Any) -> None:
    with pytest.raises(ConfigError, match="the factory of 'mine' takes no source"):
        register_encoder("mine")(factory)


def test_what_a_factory_prints_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    @register_encoder("mine")
    def build(source: str | None = None) -> Encoder:
        print("loading…")  # noqa: T201
        return clip(source)

    load_encoder("mine")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loading…" in printed.err


def _parse(text: str) -> str:
    return parse_encoder(text).name


def test_a_worker_process_says_that_it_does_not_know_what_was_registered_elsewhere() -> None:
    register_encoder("mine")(clip)
    assert _parse("mine") == "mine/default"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(ConfigError) as caught:
        pool.submit(_parse, "mine").result()
    assert caught.value.what == "unknown encoder 'mine'"
    assert "worker process" in caught.value.fix
    assert "entry point" in caught.value.fix


def test_a_familys_loader_that_fails_says_whose_it_is() -> None:
    def load(request: LoadRequest) -> Encoder:
        raise ValueError(request.name)

    variant = Variant(
        name="tiny", title="tiny", resolution_px=1, num_tokens=1, dim=1,
        licence="-", training_data="-", objective="-", citation="-",
    )  # fmt: skip
    family = Family(key="packed", title="Packed", load=load, variants=(variant,))
    entry = importlib.metadata.EntryPoint("packed", "x:y", plugins.GROUP)
    checked = plugins._checked(family, plugins.Plugin("packed", "vit-pack 1.0", entry))
    with pytest.raises(DependencyError, match="the adapter of 'packed' failed: ValueError: packed/tiny"):
        checked.load(LoadRequest(family="packed", variant=variant))
