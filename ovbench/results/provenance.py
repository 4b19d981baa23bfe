"""Where a result comes from: commit, packages, machine and memory. Imports none of the packages it names."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ovbench.results.record import Environment

PACKAGES = (
    "accelerate", "diffusers", "lmms-eval", "numpy", "open_clip_torch", "ovbench", "pandas", "pillow", "pyarrow",
    "safetensors", "timm", "tokenizers", "torch", "torchvision", "transformers",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The commit of a checkout."""

    commit: str  # 40 hex digits
    dirty: bool  # the package differs from the commit; files outside it do not count


def git_state(package: Path | None = None) -> GitState | None:
    """Returns the commit of the ovbench checkout, or None when it was installed from a wheel.

    Args:
        package: The package folder; by default that of the running ovbench.
    """
    folder = package or Path(__file__).resolve().parent.parent
    # Trap: an installed package may lie below some other repository (a virtual environment inside a checkout).
    if not (folder.parent / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None or status is None else GitState(commit=commit.strip(), dirty=bool(status.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine: the commit is unknown, and the record says so with null
    return done.stdout if done.returncode == 0 else None


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Returns the version of each distribution; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu_model() -> str:
    """Returns the name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Returns the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Returns the largest resident memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Trap: kilobytes on Linux, bytes on macOS


def environment(
    *,
    device: str,
    dtype: str,
    threads: int,
    device_reason: str = "",
    deterministic: bool = True,
    accelerator: str | None = None,
) -> Environment:
    """Returns the machine and software this process runs on.

    Args:
        device: Device of the run, e.g. `cpu`, `cuda:0`.
        dtype: Name of the number format, e.g. `float32`.
        threads: Computing threads of the process.
        device_reason: Why this device, when it was chosen and not asked for.
        deterministic: Whether deterministic algorithms were in force.
        accelerator: Name of the GPU; None on CPU.
    """
    git = git_state()
    return Environment(
        device=device,
        device_reason=device_reason,
        dtype=dtype,
        threads=threads,
        deterministic=deterministic,
        platform=platform.platform(),
        cpu_model=cpu_model(),
        num_cores=num_cores(),
        accelerator=accelerator,
        python=platform.python_version(),
        packages={name: version for name, version in package_versions().items() if version is not None},
        git_commit=git.commit if git else None,
        git_dirty=git.dirty if git else None,
    )
