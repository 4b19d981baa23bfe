"""A finished run, or a folder of weights → something that answers."""

from __future__ import annotations

import logging
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench.encoders.base import check_device_name, check_dtype_name
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.understanding.checkpoint_parts import spec_with_aspect
from ovbench.harness.understanding.llava import load_llava
from ovbench.harness.understanding.lmms.answering import LlavaAnswerer
from ovbench.harness.understanding.run_checkpoint import checkpoint_of_run, is_run
from ovbench.results.store import RECORD

log = logging.getLogger(__name__)


def open_run(folder: Path, *, device: str = "cpu", batch_size: int = 64) -> LlavaAnswerer:
    """Returns what answers as a finished run of the understanding suite did.

    Args:
        folder: The run's folder, or its `record.json`; the weights come from the cache, verified.
        device: Where it runs.
        batch_size: Questions read together; changes no answer.

    Raises:
        RecordError: No record there, or one of another suite.
        DataError: The weights are not in the cache any more, are damaged, or the encoder is another one by now.
    """
    check_device_name(device)
    folder = folder.parent if folder.name == RECORD else folder
    if not is_run(folder):
        raise RecordError(
            f"'{folder}' holds no {RECORD}", where="run", fix="name the folder of a finished run; all: ovbench runs"
        )
    found = checkpoint_of_run(folder)
    spec = parse_encoder(spec_with_aspect(found.encoder, found.aspect), where=f"{folder}, encoder")
    encoder = load_encoder(spec, device=device, dtype=found.encoder_dtype)
    if encoder.info.weights_digest != found.weights_digest:
        raise DataError(
            f"the encoder '{found.encoder}' is not the one that the run was trained with: the digest of its weights is "
            f"{encoder.info.weights_digest[:12]}…, the record says {found.weights_digest[:12]}…",
            where=str(folder / RECORD),
            fix="bring the encoder's weights back, or run again",
        )
    model = load_llava(found.weights, found.config, dim=encoder.info.dim, device=device, dtype=found.answer_precision)
    return LlavaAnswerer(
        model,
        encoder,
        tap=found.tap or encoder.info.llm_tap,
        feature_dtype=found.feature_dtype,
        batch_size=batch_size,
    )


def open_checkpoint(
    folder: Path, *, encoder: str | None = None, device: str = "cpu", dtype: str = "float32", batch_size: int = 64
) -> LlavaAnswerer:
    """Returns what answers with a folder of LLaVA weights, whoever trained it.

    Args:
        folder: A checkpoint in any layout that ovbench reads.
        encoder: Spec string of the encoder it was trained with; None: the checkpoint says it.
        device: Where it runs.
        dtype: Of encoder and language model.
        batch_size: Questions read together; changes no answer.

    Raises:
        ConfigError: An unknown encoder, device or type, or a checkpoint that does not name its encoder.
        DataError: The folder cannot be read.
    """
    check_device_name(device)
    precision = check_dtype_name(dtype)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder '{folder}'", where="checkpoint")
    from ovbench.harness.understanding.checkpoint_folder import load_checkpoint

    loaded = load_checkpoint(folder, encoder=encoder, device=device, dtype=precision)
    seeing = loaded.load_encoder(device=device, dtype=precision)
    return LlavaAnswerer(loaded.model.eval(), seeing, tap=loaded.tap or seeing.info.llm_tap, batch_size=batch_size)
