from __future__ import annotations

import pytest

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, suggest, unknown

TABLE = {"clip": 1, "siglip": 2, "ovis3": 3}


def test_known_name_gives_its_entry() -> None:
    assert lookup(TABLE, "ovis3", kind="encoder", where="--encoder") == 3


def test_near_miss_is_suggested_with_the_listing_command() -> None:
    with pytest.raises(ConfigError) as caught:
        lookup(TABLE, "clyp", kind="encoder", where="--encoder", listing="ovbench encoders")
    assert str(caught.value) == (
        "error: unknown encoder 'clyp'\n  where: --encoder\n  fix:   did you mean 'clip'? All names: ovbench encoders"
    )


def test_far_miss_lists_all_names_in_order() -> None:
    assert unknown("suite", "xyzzy", TABLE, where="--suite").fix == "known: clip, ovis3, siglip"


def test_upper_case_is_no_obstacle_to_a_suggestion() -> None:
    assert suggest("SigLIP", TABLE) == "siglip"


def test_nothing_close_suggests_nothing() -> None:
    assert suggest("xyzzy", TABLE) is None
