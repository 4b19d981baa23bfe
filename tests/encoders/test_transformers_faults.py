"""Folders that are missing, damaged or of another model end in an error that says what, where and how to mend it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovbench._base.errors import DataError, OvbenchError
from ovbench.encoders.registry import load_encoder
from tests.encoders.layouts_hf import LAYOUTS, ONE_OF_EACH, edit_json, write_layout, write_weights

SIGLIP = "siglip two towers"
KEY = "encoder.layers.1.mlp.fc1.weight"
NAMED = f"vision_model.{KEY}"
READERS = ("siglip/base-256", "hf")  # the family and the generic one
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "model", SIGLIP)


def refused(spec: str, folder: Path, options: str = "") -> OvbenchError:
    """Returns the error of a load, which must be one of ours and say where."""
    with pytest.raises(OvbenchError) as caught:
        load_encoder(f"{spec}:{folder}{options}")
    assert caught.value.where
    return caught.value


def edit_weights(change: Callable[[dict[str, Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        write_weights(folder, state)

    return apply


def edit_tower(**fields: Any) -> Change:
    return lambda folder: edit_json(folder / "config.json", lambda content: content["vision_config"].update(fields))


def as_bin(content: object) -> Change:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return apply


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def empty_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


# --- folders and configurations


@pytest.mark.parametrize("spec", READERS)
def test_a_missing_folder_is_named(tmp_path: Path, spec: str) -> None:
    error = refused(spec, tmp_path / "nowhere")
    assert (error.what, error.where) == ("no such file or folder 'nowhere'", str(tmp_path))


@pytest.mark.parametrize("spec", READERS)
def test_a_file_in_place_of_a_folder_is_named(folder: Path, spec: str) -> None:
    error = refused(spec, folder / "model.safetensors")
    assert error.what == "'model.safetensors' is no folder"
    assert error.fix == "name a folder in transformers' layout: config.json and weights"


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (remove("config.json"), "no such file 'config.json'"),
        (write("config.json", b"{"), "'config.json' cannot be read: Expecting property name"),
        (write("config.json", b"\xff\xfe\x00"), "'config.json' cannot be read"),
        (write("config.json", b"[1, 2]"), "'config.json' is not a JSON object"),
        (write("config.json", b"{}"), "'model_type' must be a text, got None"),
        (write("config.json", b'{"model_type": ["siglip"]}'), "'model_type' must be a text, got ['siglip']"),
        (edit_tower(quantization_config={"quant_method": "bitsandbytes"}), "the weights are quantised"),
        (write("preprocessor_config.json", b"{"), "'preprocessor_config.json' cannot be read as JSON"),
        (write("preprocessor_config.json", b"{}"), "'image_mean' is missing"),
    ],
)
def test_a_json_that_cannot_be_used_is_named(folder: Path, spec: str, change: Change, what: str) -> None:
    change(folder)
    error = refused(spec, folder)
    assert isinstance(error, DataError)
    assert error.what.startswith(what)
    assert error.where.startswith(str(folder))


@pytest.mark.parametrize(
    ("spec", "accepted", "fix"),
    [
        ("clip/b16", "clip_vision_model, clip", "use --encoder siglip:…"),
        ("dinov2/base", "dinov2, dinov2_with_registers", "use --encoder siglip:…"),
        ("mae/base-224", "vit_mae", "use --encoder siglip:…"),
    ],
)
def test_another_architecture_is_sent_to_its_family(folder: Path, spec: str, accepted: str, fix: str) -> None:
    error = refused(spec, folder)
    assert error.what == f"the configuration is of the architecture 'siglip', and this encoder takes: {accepted}"
    assert (error.where, error.fix) == (str(folder / "config.json"), fix)


def test_an_architecture_of_no_family_is_sent_to_the_generic_one(folder: Path) -> None:
    edit_json(folder / "config.json", lambda content: content.update(model_type="deit"))
    assert refused("siglip/base-256", folder).fix == "try the generic family: --encoder hf:…"


@pytest.mark.parametrize("options", ["", "?weights=random:0"])
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"patch_size": 0}, "sizes and counts must be at least 1"),
        ({"num_hidden_layers": 0}, "sizes and counts must be at least 1"),
        ({"num_attention_heads": 0}, "sizes and counts must be at least 1"),
        ({"hidden_size": -32}, "sizes and counts must be at least 1"),
        ({"num_attention_heads": 5}, "hidden_size 32 cannot be split into 5 heads"),
        ({"image_size": 4}, "image_size 4 holds no patch of 8"),
        ({"image_size": None}, "image_size"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ({"num_channels": 1}, "num_channels is 1, and ovbench feeds RGB"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 2**40}, "no network can be built from the configuration"),
        ({"hidden_act": "shrug"}, "unknown name 'shrug'"),
    ],
)
def test_absurd_numbers_are_refused(folder: Path, fields: dict[str, Any], what: str, options: str) -> None:
    edit_tower(**fields)(folder)
    error = refused("siglip/base-256", folder, options)
    assert isinstance(error, DataError)
    assert what in error.what
    assert (error.where, error.fix) == (str(folder / "config.json"), "correct config.json")


def test_a_network_beyond_the_memory_is_refused(folder: Path) -> None:
    edit_tower(intermediate_size=2**45)(folder)
    error = refused("siglip/base-256", folder, "?weights=random:0")
    assert error.what.startswith("the network cannot be built: ")


@pytest.mark.parametrize("content", [None, [1], {}])
def test_two_towers_without_a_vision_config_are_refused(folder: Path, content: object) -> None:
    edit_json(folder / "config.json", lambda fields: fields.update(vision_config=content))
    assert refused("siglip/base-256", folder).what == "'siglip' needs a 'vision_config'"


# --- weights


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize(
    ("change", "file", "what"),
    [
        (truncate, "model.safetensors", "'model.safetensors' is damaged: "),
        (write("model.safetensors", b""), "model.safetensors", "'model.safetensors' is empty"),
        (empty_bin, "pytorch_model.bin", "'pytorch_model.bin' is empty"),
        (as_bin([1, 2]), "pytorch_model.bin", "'pytorch_model.bin' is not a dictionary of tensors"),
        (as_bin({"a": [1]}), "pytorch_model.bin", "'pytorch_model.bin' is not a dictionary of tensors"),
    ],
)
def test_a_damaged_weights_file_is_named(folder: Path, spec: str, change: Change, file: str, what: str) -> None:
    change(folder)
    error = refused(spec, folder)
    assert error.what.startswith(what)
    assert error.where == str(folder / file)


@pytest.mark.parametrize("spec", READERS)
def test_missing_weights_are_named(folder: Path, spec: str) -> None:
    (folder / "model.safetensors").unlink()
    error = refused(spec, folder)
    assert error.what.startswith("no weights: none of model.safetensors, model.safetensors.index.json, pytorch_model")
    assert error.fix == "check the folder (it holds: config.json, preprocessor_config.json)"


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (lambda state: state.pop(NAMED), [f"missing: *{KEY}"]),
        (lambda state: state.update({NAMED + "x": state.pop(NAMED)}), [f"missing: *{KEY}", f"unexpected: *{KEY}x"]),
        (lambda state: state.update({NAMED: torch.zeros(3, 4)}), [f"wrong shape: *{KEY} [3, 4] for [48, 32]"]),
        (lambda state: state.update({"vision_model.new": torch.zeros(1)}), ["unexpected: *new"]),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, spec: str, change: Callable[[dict[str, Tensor]], object], faults: list[str]
) -> None:
    edit_weights(change)(folder)
    error = refused(spec, folder)
    part = "vision_model." if spec == "hf" else ""
    listed = {"; ".join(fault.replace("*", name) for fault in faults) for name in (part, "")}
    assert error.what in {f"the weights do not fit the architecture ({text})" for text in listed}
    assert error.fix == "check that the configuration and the weights are of the same model"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", READERS)
def test_weights_that_are_no_numbers_are_named(folder: Path, spec: str, value: float) -> None:
    edit_weights(lambda state: state[NAMED][0, :1].fill_(value))(folder)
    assert refused(spec, folder).what == f"the weights hold NaN or infinite values: {KEY}"


def test_broken_weights_of_the_text_tower_do_not_matter(folder: Path) -> None:
    plain = load_encoder(f"siglip/base-256:{folder}").info.identity
    text = next(key for key in load_file(folder / "model.safetensors") if key.startswith("text_model."))
    edit_weights(lambda state: state[text].fill_(float("nan")))(folder)
    for spec in READERS:
        load_encoder(f"{spec}:{folder}")
    assert load_encoder(f"siglip/base-256:{folder}").info.identity == plain


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_family_fills_every_parameter(tmp_path: Path, name: str) -> None:
    spec, folder = LAYOUTS[name].spec, write_layout(tmp_path, name, weights="safetensors")
    state = load_file(folder / "model.safetensors")
    own = sorted(key for key in state if not key.startswith(("text_", "visual_", "logit_", "decoder.")))
    own = [key for key in own if not key.endswith("position_ids")]
    for key in (own[0], own[-1], own[len(own) // 2]):
        write_weights(folder, {other: value for other, value in state.items() if other != key})
        error = refused(spec, folder)
        assert error.what.startswith("the weights do not fit the architecture (missing: ")
        assert error.what.count(",") == 0


class _Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shards", [False, True])
def test_code_in_a_pickle_is_not_run(folder: Path, tmp_path: Path, spec: str, legacy: bool, shards: bool) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(_Code(marker)))  # the pickle is armed
    assert marker.exists()
    marker.unlink()
    state = {**load_file(folder / "model.safetensors"), "extra": _Code(marker)}
    (folder / "model.safetensors").unlink()
    name = "pytorch_model-00001-of-00001.bin" if shards else "pytorch_model.bin"
    if legacy:
        (folder / name).write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, folder / name)
    if shards:
        content = {"weight_map": dict.fromkeys(state, name)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content), encoding="utf-8")
    error = refused(spec, folder)
    assert not marker.exists()
    assert error.what.startswith(f"'{name}' holds pickled code or objects (")
    assert error.where == str(folder / name)


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"weight_map": {"a": "model-00001-of-00001.safetensors"}}, "no such file 'model-00001-of-00001.safetensors'"),
        ({"weight_map": {"a": "../model.safetensors"}}, "'weight_map' must name the shard of each tensor"),
        ({"weight_map": {"a": 1}}, "'weight_map' must name the shard of each tensor"),
        ({"weight_map": {}}, "'weight_map' must name the shard of each tensor"),
        ({}, "'weight_map' must name the shard of each tensor"),
    ],
)
def test_an_index_that_names_no_shards_is_refused(folder: Path, spec: str, content: dict[str, Any], what: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    assert refused(spec, folder).what.startswith(what)
