"""A narrow terminal wraps a table; it never cuts a number."""

from __future__ import annotations

from typing import Any

import pytest

from ovbench.results.formats.to_console import render, render_rows
from ovbench.results.table import build_tables


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_cut(make: Any, width: int) -> None:
    text = render(build_tables([make.record(metrics=0.612)]), width=width, color=False)
    assert "…" not in text
    assert "61.2" in text
    assert "25.0" in text


def test_no_cell_of_a_listing_is_cut() -> None:
    assert (
        render_rows([{"name": "a" * 150, "value": 1}], width=60, color=False).count("a") == 150 + 2
    )  # and those of the headings
