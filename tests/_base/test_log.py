from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ovbench._base.log import configure


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    root = logging.getLogger("ovbench")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_messages_go_to_stderr_once_however_often_it_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    configure()
    logging.getLogger("ovbench.harness").info("step 1")
    captured = capsys.readouterr()
    assert captured.err == "step 1\n"
    assert captured.out == ""


def test_details_are_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logging.getLogger("ovbench").debug("hidden")
    configure(verbose=True)
    logging.getLogger("ovbench").debug("shown")
    assert capsys.readouterr().err == "shown\n"
