"""A finished run, or a folder of weights → something that answers."""

from __future__ import annotations

import logging
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.paths import cache_dir
from ovbench.encoders.base import Tap, check_device_name, check_dtype_name
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.steps import verify_entry
from ovbench.harness.understanding.llava import load_llava
from ovbench.harness.understanding.lmms.answering import LlavaAnswerer
from ovbench.harness.understanding.pipeline import WEIGHTS, llava_config
from ovbench.results.record import RunRecord
from ovbench.results.store import RECORD, read_record

log = logging.getLogger(__name__)
_STEP = "llava_stage2"


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
    path = folder if folder.name == RECORD else folder / RECORD
    if not path.is_file():
        raise RecordError(
            f"'{folder}' holds no {RECORD}", where="run", fix="name the folder of a finished run; all: ovbench runs"
        )
    record = read_record(path)
    section = record.protocol.content.get("understanding")
    if record.suite != "understanding" or section is None:
        raise RecordError(
            f"the run is of the suite '{record.suite}', which trains no language model",
            where=str(path),
            fix="name a run of the suite understanding",
        )
    weights = _weights(record, path)
    spec = parse_encoder(record.encoder.spec, where=f"{path}, encoder")
    encoder = load_encoder(spec, device=device, dtype=check_dtype_name(record.environment.dtype))
    if encoder.info.identity != record.encoder.identity:
        raise DataError(
            f"the encoder '{record.encoder.spec}' is not the one that the run was trained with: its identity is "
            f"{encoder.info.identity[:12]}…, the record says {record.encoder.identity[:12]}…",
            where=str(path),
            fix="bring the encoder's weights back, or run again",
        )
    model = load_llava(weights, llava_config(section), dim=encoder.info.dim, device=device)
    return LlavaAnswerer(
        model,
        encoder,
        tap=spec.llm_tap or Tap(**section["tap"]),
        feature_dtype=section["feature_dtype"],
        batch_size=batch_size,
    )


def _weights(record: RunRecord, path: Path) -> Path:
    key = next((step.key for step in record.steps if step.name == _STEP), None)
    if key is None:
        raise RecordError(f"the record names no step '{_STEP}'", where=str(path), fix="run again")
    entry = cache_dir() / _STEP / key
    fault = verify_entry(entry) if entry.is_dir() else "it is not there"
    if fault is not None:
        raise DataError(
            f"the cache has no sound weights of this run: {fault}",
            where=str(entry),
            fix=f"make them again: ovbench run --encoder {record.encoder.spec} --protocol {record.protocol.name} "
            f"--seed {record.seed}; or point OVBENCH_CACHE at the cache that the run used",
        )
    return entry / WEIGHTS


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
