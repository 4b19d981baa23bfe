from __future__ import annotations

import pickle

import pytest

from ovbench._base.errors import ConfigError, DataError, DependencyError, OvbenchError, RecordError


def test_text_is_three_short_lines() -> None:
    error = OvbenchError("unknown encoder 'clyp'", where="--encoder", fix="did you mean 'clip'?")
    assert str(error) == "error: unknown encoder 'clyp'\n  where: --encoder\n  fix:   did you mean 'clip'?"


def test_empty_parts_leave_no_line() -> None:
    assert str(OvbenchError("too small")) == "error: too small"


@pytest.mark.parametrize("kind", [ConfigError, DataError, DependencyError, RecordError])
def test_every_kind_is_caught_as_ovbench_error(kind: type[OvbenchError]) -> None:
    with pytest.raises(OvbenchError, match="broken") as caught:
        raise kind("broken", where="here")
    assert caught.value.where == "here"


def test_error_survives_the_way_back_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(DataError("broken", where="here", fix="mend it")))
    assert str(error) == "error: broken\n  where: here\n  fix:   mend it"
