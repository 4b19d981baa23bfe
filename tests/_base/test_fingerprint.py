from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovbench._base.fingerprint import canonical_json, file_sha256, fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    x: int
    label: str


def test_canonical_json_has_one_form() -> None:
    value = {"b": (1, 2), "a": {"point": Point(x=1, label="é"), "path": Path("x/y"), "set": {3, 1}}}
    assert canonical_json(value) == '{"a":{"path":"x/y","point":{"label":"é","x":1},"set":[1,3]},"b":[1,2]}'


def test_key_order_does_not_count() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_fingerprint_is_the_digest_of_the_canonical_json() -> None:
    assert fingerprint([1]) == hashlib.sha256(b"[1]").hexdigest()


@pytest.mark.parametrize("other", [{"a": 1.5}, {"a": "1"}, {"a": None}, {"A": 1}, {"a": True}])
def test_any_difference_counts(other: object) -> None:
    assert fingerprint({"a": 1}) != fingerprint(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_without_identity_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"lr": value})


def test_object_without_json_form_is_refused() -> None:
    with pytest.raises(TypeError):
        fingerprint({"model": object()})


def test_file_digest_covers_more_than_one_block(tmp_path: Path) -> None:
    path = tmp_path / "big"
    data = bytes(range(256)) * 5000  # 1.28 MB, above the block of 1 MiB
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()
