"""Where a result comes from: commit, package versions, machine. Reads metadata and imports none of the packages."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

log = logging.getLogger(__name__)
CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pyarrow", "pillow",
    "pyyaml", "rich", "typer", "accelerate", "diffusers", "open_clip_torch", "timm", "lmms-eval",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The commit of the code, where it is run from a checkout."""

    commit: str | None
    dirty: bool | None  # tracked or untracked files differ from the commit
    reason: str | None  # why there is no commit


def git_state(folder: Path = CHECKOUT) -> GitState:
    """Returns the commit of the ovbench checkout; no commit when ovbench was installed from a wheel.

    Contract: only a folder that is itself the root of a checkout counts, so that a virtual environment inside some
    other repository is not taken for ours.
    """
    if not (folder / ".git").exists() or not (folder / "pyproject.toml").exists():
        return GitState(commit=None, dirty=None, reason="installed, not run from a checkout")
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changes = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the commit of %s is not known: %s", folder, error)
        return GitState(commit=None, dirty=None, reason=f"git failed: {type(error).__name__}")
    return GitState(commit=commit, dirty=bool(changes.strip()), reason=None)


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Returns distribution → version, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def cpu_model() -> str:
    """Returns the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        log.debug("no /proc/cpuinfo: the platform module names the processor")
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Trap: macOS counts bytes, Linux KiB.


def utc(time_s: float | None = None) -> str:
    """Returns a time (seconds since the epoch; None: now) as records write it, e.g. 2026-01-20T10:15:30Z."""
    moment = datetime.now(UTC) if time_s is None else datetime.fromtimestamp(time_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
