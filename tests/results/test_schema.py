from __future__ import annotations

from typing import Any

import pytest

from ovbench.results import schema


def test_an_old_document_passes_through_every_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "schema_version": 2, "added_in_2": None}

    def second(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "schema_version": 3, "added_in_3": document["added_in_2"]}

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: first, 2: second})
    assert schema.migrate({"schema_version": 1}, where="x") == {
        "schema_version": 3,
        "added_in_2": None,
        "added_in_3": None,
    }


def test_every_past_version_has_a_migration() -> None:
    assert sorted(schema.MIGRATIONS) == list(range(1, schema.SCHEMA_VERSION))


@pytest.mark.parametrize("encoder", [None, [], "x"])
def test_a_damaged_record_of_version_1_is_left_to_the_decoder(encoder: object) -> None:
    assert schema.migrate({"schema_version": 1, "encoder": encoder}, where="x")["encoder"] == encoder
