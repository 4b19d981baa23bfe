"""Where things are; with launcher.py the only reader of environment variables."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256

ASSETS = Path(__file__).resolve().parent.parent / "_assets"


def cache_dir() -> Path:
    """Returns the cache folder: `$OVBENCH_CACHE`, or `ovbench` below the user's cache folder."""
    if value := os.environ.get("OVBENCH_CACHE"):
        return Path(value).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "ovbench"


def feature_cache_bytes() -> int:
    """Returns the bound of the feature cache: `$OVBENCH_FEATURE_CACHE_GB` times 2^30 bytes, 20 by default; 0 is off.

    Raises:
        ConfigError: The value is not a number of 0 or more.
    """
    text = os.environ.get("OVBENCH_FEATURE_CACHE_GB") or "20"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"the size of the feature cache must be a number of GB, 0 or more, got '{text}'",
            where="OVBENCH_FEATURE_CACHE_GB",
            fix="e.g. OVBENCH_FEATURE_CACHE_GB=20; 0 switches the feature cache off",
        )
    return int(value * 2**30)


def runs_dir() -> Path:
    """Returns the default folder of run records: `$OVBENCH_RUNS`, or `runs` in the working folder."""
    return Path(os.environ.get("OVBENCH_RUNS") or "runs").expanduser()


def config_file() -> Path:
    """Returns the file of what this user has set: `ovbench/config.json` below the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".config") / "ovbench" / "config.json"


def data_dir() -> Path | None:
    """Returns the folder of published benchmarks: `$OVBENCH_DATA`, or the one that `ovbench data mount` remembers.

    Raises:
        DataError: The file that remembers it is damaged.
    """
    if value := os.environ.get("OVBENCH_DATA"):
        return Path(value).expanduser()
    path = config_file()
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get("data_dir")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"'{path.name}' cannot be read: {type(error).__name__}: {error}",
            where=str(path),
            fix="remove the file, then: ovbench data mount DIR",
        ) from error
    return Path(value) if value else None


_REINSTALL = (
    "reinstall the package: python -m pip install --force-reinstall ovbench (in a clone: git checkout the file)"
)


def assets_manifest() -> dict[str, dict[str, object]]:
    """Returns the manifest of the embedded files: name → sha256, size, and how each was made.

    Raises:
        DataError: The manifest is absent or damaged.
    """
    path = ASSETS / "MANIFEST.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the manifest of the embedded files cannot be read: {type(error).__name__}: {error}",
            where=str(path),
            fix=_REINSTALL,
        ) from error


_verified: set[Path] = set()


def asset(name: str) -> Path:
    """Returns the path of an embedded file after checking its digest against the manifest, once per process.

    Args:
        name: Path inside the assets folder, e.g. `encoders/clip-mini.safetensors`.

    Raises:
        DataError: The file is absent or its digest differs; the message names both digests.
    """
    path = ASSETS / name
    entry = assets_manifest().get(name)
    if entry is None or not path.is_file():
        raise DataError(f"embedded file '{name}' is missing", where=str(path), fix=_REINSTALL)
    if path not in _verified:
        found = file_sha256(path)
        if found != entry["sha256"]:
            raise DataError(
                f"embedded file '{name}' is damaged: sha256 {found[:12]}…, expected {str(entry['sha256'])[:12]}…",
                where=str(path),
                fix=_REINSTALL,
            )
        _verified.add(path)
    return path


def asset_folder(name: str) -> Path:
    """Returns an embedded folder after checking every file of it; raises as `asset` does."""
    files = [entry for entry in assets_manifest() if entry.startswith(f"{name}/")]
    for entry in files or [f"{name}/"]:
        asset(entry)
    return ASSETS / name
