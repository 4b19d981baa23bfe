"""Where samples go as files: folders that are new or hold the same samples, one per run. A plan loads no numpy here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import make_dir, read_json

CARD = "samples.json"  # says in a folder of samples what they are
_FLAG = "--save-samples"
_LEFT = re.compile(r"\..+\.\w{8}\.tmp")  # as `atomic_dir` names what is not whole yet


def check_target(folder: Path) -> None:
    """Refuses a place that holds anything but samples of ours, or that cannot be written to.

    What runs of ours left there, whole or not, is accepted: the same command goes on from it. Whether it is of the same
    run is known when the run is opened (`is_saved`).

    Raises:
        ConfigError: It is.
    """
    if folder.is_symlink() or (folder.exists() and not _is_ours(folder)):
        raise _taken(folder, "holds something else")
    make_dir(folder.parent)


def is_saved(folder: Path, card: Mapping[str, Any]) -> bool:
    """Whether a folder holds the very samples that a card describes; False where there are none yet.

    Raises:
        ConfigError: It holds others, or something else.
    """
    check_target(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if _card(folder) != dict(card):
        raise _taken(folder, "holds other samples: of other settings or weights, another number or format")
    return True


def leftovers(folder: Path) -> list[Path]:
    """Returns what killed runs left beside a folder of samples that never appeared."""
    return [path for path in folder.parent.glob(f".{folder.name}.*") if _LEFT.fullmatch(path.name) and path.is_dir()]


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or holds samples, or folders of samples alone."""
    if not folder.is_dir():
        return False
    return _card(folder) is not None or all(
        path.is_dir() and not path.is_symlink() and (bool(_LEFT.fullmatch(path.name)) or _card(path) is not None)
        for path in folder.iterdir()
    )


def _card(folder: Path) -> Any:
    """Returns what a folder of samples says of itself; None: it is none."""
    try:
        return read_json(folder / CARD)
    except DataError:
        return None


def _taken(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"'{folder.name}' is there already and {what}; no file is ever replaced",
        where=f"{_FLAG} {folder}",
        fix="name a new folder; finished samples come from the cache",
    )


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

    Raises:
        ConfigError: Several runs are to go where one has left its samples.
    """
    if len(names) == 1:
        return [folder]
    if _card(folder) is not None:
        raise _taken(folder, "holds the samples of one run")
    found: list[Path] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        same = sum(path.name == plain or path.name.startswith(f"{plain}--") for path in found)
        found.append(folder / (f"{plain}--{same + 1}" if same else plain))
    return found
