"""Weights files of others: what is read, and what is refused without running anything of it."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovbench._base.errors import DataError
from ovbench.encoders.modeling.sources import find_file, read_json_file, read_state
from ovbench.encoders.modeling.weights_file import check_finite
from ovbench.encoders.registry import load_encoder
from tests.encoders.published import read_golden, write_open_clip

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def same(state: dict[str, torch.Tensor]) -> bool:
    return set(state) == set(STATE) and all(torch.equal(state[key], value) for key, value in STATE.items())


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_state(path)
    assert str(path.parent) in caught.value.where
    return caught.value


# --- what is read


@pytest.mark.parametrize("wrapped", [STATE, OrderedDict(STATE), {"state_dict": STATE, "epoch": 3}])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_dictionary_of_tensors_is_read(tmp_path: Path, wrapped: Any, legacy: bool) -> None:
    torch.save(wrapped, tmp_path / "w.bin", _use_new_zipfile_serialization=not legacy)
    assert same(read_state(tmp_path / "w.bin"))


def test_parameters_are_tensors_too(tmp_path: Path) -> None:
    torch.save({key: torch.nn.Parameter(value) for key, value in STATE.items()}, tmp_path / "w.pt")
    assert same(read_state(tmp_path / "w.pt"))


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(read_state(tmp_path / "w.safetensors"))


# --- pickles that are more than tensors


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "w.bin"
    content = {**STATE, "payload": Payload(f"touch {proof}")}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"payload": content["payload"]}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    error = refused(path)
    assert not proof.exists()
    assert "'w.bin' holds pickled code or objects" in error.what
    assert "system" in error.what
    assert "safetensors" in error.fix
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert proof.exists()  # the file was armed


def test_an_encoder_with_pickled_code_is_refused_by_the_public_loader(tmp_path: Path) -> None:
    golden = read_golden("openvision2_tiny")
    folder = write_open_clip(tmp_path / "ov", golden.model_cfg(), {})
    torch.save({**golden.state, "x": Payload(f"touch {tmp_path / 'proof'}")}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(DataError, match="holds pickled code"):
        load_encoder(f"ovis2:{folder}")
    assert not (tmp_path / "proof").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.bin")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "w.bin").what


# --- damaged files


def saved(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization="legacy" not in name)
    return path


@pytest.mark.parametrize("name", ["w.bin", "w.legacy.bin", "w.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, kept: float) -> None:
    path = saved(tmp_path, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    error = refused(path)
    # Cut inside a name, the older format asks for an object that does not exist.
    kind = "empty" if not kept else "holds pickled code or objects (collections.OrderedD)"
    expected = kind if "OrderedD)" in error.what or not kept else "is damaged"
    assert f"'{name}'" in error.what
    assert expected in error.what
    assert "again" in error.fix


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_named(tmp_path: Path, name: str, seed: int) -> None:
    noise = torch.randint(0, 256, (500,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    (tmp_path / name).write_bytes(noise.numpy().tobytes())
    assert f"'{name}'" in refused(tmp_path / name).what


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_a_page_in_place_of_the_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html><html>404</html>")
    error = refused(tmp_path / name)
    assert error.what == (f"'{name}' is a text file, not weights: it begins with '<!DOCTYPE html><html>404</html>'")
    assert "get the file again" in error.fix


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    error = refused(tmp_path / name)
    assert "pointer of Git LFS" in error.what
    assert error.fix == "run: git lfs pull"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(1)], "it holds a list"),
        (torch.zeros(1), "it holds a Tensor"),
        (3, "it holds a int"),
        ({"a": torch.zeros(1), "step": 3}, "'step' is a int"),
        ({"state_dict": [1]}, "'state_dict' is a list"),
        ({"model": STATE}, "'model' is a dict"),
    ],
)
def test_something_else_than_named_tensors_is_named(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "w.bin")
    error = refused(tmp_path / "w.bin")
    assert f"is not a dictionary of tensors: {found}" in error.what
    assert "state_dict()" in error.fix


def test_folders_and_absent_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.bin").mkdir()
    assert "'w.bin' is a folder" in refused(tmp_path / "w.bin").what
    assert "no such file 'x.safetensors'" in refused(tmp_path / "x.safetensors").what


# --- beside the weights


def test_a_network_with_nan_is_named() -> None:
    net = torch.nn.Linear(2, 2)
    check_finite(net.state_dict(), where="here")
    with torch.no_grad():
        net.bias[0] = torch.inf
    with pytest.raises(DataError, match="NaN or infinite values: bias") as caught:
        check_finite(net.state_dict(), where="here")
    assert caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_a_json_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"'c\.json'"):
        read_json_file(path)


def test_the_preferred_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    assert find_file(tmp_path, ("a", "b")).name == "b"
    (tmp_path / "a").touch()
    assert find_file(tmp_path, ("a", "b")).name == "a"
    with pytest.raises(DataError, match="none of c is there") as caught:
        find_file(tmp_path, ("c",))
    assert "it holds: a, b" in caught.value.fix
    with pytest.raises(DataError, match="none of c is there") as nothing:
        find_file(tmp_path / "a", ("c",))
    assert "it is no folder" in nothing.value.fix


def test_a_stream_is_not_confused_by_its_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "w.safetensors").write_bytes(buffer.getvalue())  # a pickle under the other name
    assert "'w.safetensors' is damaged" in refused(tmp_path / "w.safetensors").what


def test_a_damaged_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b'\x40\x00\x00\x00\x00\x00\x00\x00{"a": ')
    with pytest.raises(DataError, match="is damaged"):
        read_state(path)
