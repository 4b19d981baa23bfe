"""Vision towers of checkpoints, kept below the cache folder as weights that an encoder can be loaded from.

Contract: a tower that a process was given stays until the process ends; a collection leaves alone what is marked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from ovbench._base.files import atomic_dir
from ovbench.harness.steps import StepCache
from ovbench.harness.use_marks import UseMark, mark_in_use

FOLDER, MARK = "towers", "config.json"  # the file that is marked; its time says when the tower was last used
_HELD: dict[Path, UseMark] = {}  # of this process


def hold_tower(root: Path, key: str, write: Callable[[Path], None]) -> Path:
    """Returns the folder of a tower, written where it is not there, and in use until this process ends.

    Args:
        root: The folder of the whole cache.
        key: What identifies the weights.
        write: Called with the folder to fill, `MARK` among its files.
    """
    folder = root / FOLDER / key
    if not _hold(folder):
        # The lock that a collection takes before it removes what a killed process left half written.
        with StepCache(root).building(FOLDER, key, wait=True):
            if not _hold(folder):
                with atomic_dir(folder) as out:
                    write(out)
                held = _hold(folder)
                assert held, "nobody removes it under this lock"
    return folder


def _hold(folder: Path) -> bool:
    mark = folder / MARK
    if folder not in _HELD or not mark.is_file():  # a user may remove the whole cache
        found = mark_in_use(mark)
        if found is None:
            return False
        _HELD[folder] = found
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(mark)
    return True
