"""What a pack's manifest says about a task: counts and digests of its data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ovbench.tasks.base import TaskSpec
from ovbench.tasks.sources import load_data


def content_of(spec: TaskSpec, folder: Path) -> dict[str, Any]:
    """Returns rows, groups, pictures and the digest of a task's data in a folder.

    Raises:
        DataError: They are not there, or damaged.
    """
    data = load_data(spec, data_dir=folder, only_there=True)
    return {
        "version": spec.version,
        "folder": spec.source["folder"],
        "rows": data.num_total,
        "groups": dict(Counter(sample.group for sample in data.samples)),
        "images": len(data.image_ids),
        "digest": data.digest,
    }


def size_text(count: int) -> str:
    """Returns a number of bytes in words."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
