"""Rewrites a checkpoint, or the trained model of a run, in a layout of choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.harness.understanding.checkpoint_folder import load_checkpoint, save_checkpoint
from ovbench.harness.understanding.checkpoint_parts import check_target
from ovbench.harness.understanding.language_model import Precision
from ovbench.harness.understanding.original_layout import write_original
from ovbench.harness.understanding.transformers_export import write_transformers

LAYOUTS = ("ovbench", "llava", "transformers")


def export_checkpoint(
    source: Path,
    target: Path,
    *,
    layout: Literal["ovbench", "llava", "transformers"],
    encoder: str | None = None,
    language_model: str | None = None,
    dtype: Precision = "stored",
) -> dict[str, Any]:
    """Writes a checkpoint in another layout.

    Args:
        source: Run folder, or checkpoint of any layout.
        target: Folder that is not there yet, or is empty.
        layout: Of the target.
        encoder: Spec string, where the source names none, or one by another name.
        language_model: Folder or hub id, where the source holds a projector alone.
        dtype: Of the language model's weights; `stored`: as they are in the source.

    Returns:
        What was written: `layout`, `folder`, `files`, `size_bytes`, `encoder`, `source_layout`.

    Raises:
        ConfigError: The layout is unknown or cannot hold the model, or the target holds something.
        DataError: The source is missing or damaged.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS, where="--layout")
    check_target(target)
    found = load_checkpoint(source, encoder=encoder, language_model=language_model, dtype=dtype)
    if found.encoder is None:
        raise ConfigError(
            "the checkpoint does not say which encoder it looks through", where=str(source), fix="name it: --encoder"
        )
    if layout == "ovbench":
        save_checkpoint(
            target, found.model, encoder=found.encoder, tap=found.tap, aspect=found.aspect, metadata=found.metadata
        )
    else:
        seeing = found.load_encoder()
        tap = found.tap or seeing.info.llm_tap
        if layout == "llava":
            write_original(target, found.model, encoder=found.encoder, tap=tap, aspect=seeing.info.input.aspect)
        else:
            write_transformers(target, found.model, encoder=seeing, spec=found.encoder, tap=tap)
    files = [path for path in target.rglob("*") if path.is_file()]
    return {
        "encoder": found.encoder,
        "files": sorted(path.relative_to(target).as_posix() for path in files),
        "folder": str(target),
        "layout": layout,
        "size_bytes": sum(path.stat().st_size for path in files),
        "source_layout": found.layout,
    }
