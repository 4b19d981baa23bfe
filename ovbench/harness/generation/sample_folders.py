"""Where samples go as files: folders that are new, one per run. Loads no numpy: a plan is light."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir

_FLAG = "--save-samples"


def check_target(folder: Path) -> None:
    """Refuses a place that is taken or cannot be written to.

    Raises:
        ConfigError: It is.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"'{folder.name}' is there already, and no file is ever replaced",
            where=f"{_FLAG} {folder}",
            fix="name a new folder; finished samples come from the cache",
        )
    make_dir(folder.parent)


def check_space(folder: Path, num_samples: int, image_px: int) -> None:
    """Refuses a disk that cannot hold the samples.

    Raises:
        ConfigError: It cannot.
    """
    needed = num_samples * image_px**2 * 3
    free = shutil.disk_usage(make_dir(folder.parent)).free
    if free < needed:
        raise ConfigError(
            f"{num_samples} samples need up to {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free",
            where=f"{_FLAG} {folder}",
            fix="free some space, or name a folder on another disk",
        )


def run_folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Returns a folder per run: the named one for a single run, else one below it by the run's name.

    Args:
        folder: What the user named.
        names: Of the runs, e.g. `clip/mini cfg:1.5 seed 0`.
    """
    if len(names) == 1:
        return [folder]
    found: list[Path] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        same = sum(path.name == plain or path.name.startswith(f"{plain}--") for path in found)
        found.append(folder / (f"{plain}--{same + 1}" if same else plain))
    return found
