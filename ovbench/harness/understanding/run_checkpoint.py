"""The trained model of a run: its record names the cached step that holds the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import safe_open

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import cache_dir
from ovbench.encoders.base import Aspect, DType, Tap, check_dtype_name
from ovbench.encoders.registry import parse_encoder
from ovbench.harness.steps import verify_entry
from ovbench.harness.understanding.checkpoint_parts import LoadedLlava
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.language_model import Precision
from ovbench.harness.understanding.llava import PROJECTOR_PREFIX, load_llava
from ovbench.harness.understanding.projector import stored_widths
from ovbench.harness.understanding.section_config import read_section
from ovbench.results.store import RECORD, read_record

_STEP, _WEIGHTS = "llava_stage2", "llava.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCheckpoint:
    """Where the weights of a run are, and how they are read."""

    weights: Path
    config: LlavaConfig
    encoder: str  # canonical spec string
    tap: Tap | None  # None: the encoder's own
    aspect: Aspect | None  # None: the encoder's own
    weights_digest: str  # of the encoder, at the time
    encoder_dtype: DType
    feature_dtype: str  # visual tokens went through it
    answer_precision: Literal["float32", "bfloat16"]  # of the language model when it answered
    run_id: str
    dim: int  # width of the visual tokens


def is_run(path: Path) -> bool:
    """Returns whether a folder is that of a run."""
    return (path / RECORD).is_file()


def checkpoint_of_run(run_folder: Path) -> RunCheckpoint:
    """Returns the trained model of a run of the understanding suite.

    Args:
        run_folder: `<runs>/<run_id>`, with its record.json.

    Raises:
        RecordError: The record cannot be read.
        ConfigError: The run trained no language model.
        DataError: The cache does not hold the weights any more, or they are damaged.
    """
    record = read_record(run_folder / RECORD)
    key = next((step.key for step in record.steps if step.name == _STEP), None)
    section = record.protocol.content.get("understanding")
    if key is None or section is None or record.suite != "understanding":
        raise ConfigError(
            f"the run '{record.run_id}' has trained no language model (its suite is '{record.suite}')",
            where=str(run_folder),
            fix="name a run of the suite understanding",
        )
    again = (
        f"run it again, which trains what is missing: ovbench run --encoder '{record.encoder.spec}' "
        f"--suite {record.suite} --protocol {record.protocol.content.get('name', record.protocol.name)} "
        f"--seed {record.seed}"
    )
    entry = cache_dir() / _STEP / key
    if not entry.is_dir():
        raise DataError(
            f"the cache does not hold the weights of the run '{record.run_id}' any more", where=str(entry), fix=again
        )
    if fault := verify_entry(entry):
        raise DataError(
            f"the cached weights of the run '{record.run_id}' are damaged: {fault}", where=str(entry), fix=again
        )
    weights = entry / _WEIGHTS
    with safe_open(weights, framework="pt") as tensors:  # the projector alone, not gigabytes of a language model
        keys = [key for key in list(tensors.keys()) if key.startswith(PROJECTOR_PREFIX)]
        projector = {key.removeprefix(PROJECTOR_PREFIX): tensors.get_tensor(key) for key in keys}
    dim, _ = stored_widths(projector, where=str(weights))
    recipe = read_section(section, where=str(run_folder / RECORD))
    return RunCheckpoint(
        weights=weights,
        config=recipe.llava,
        encoder=record.encoder.spec,
        tap=parse_encoder(record.encoder.spec).llm_tap or recipe.tap,
        aspect="pad" if recipe.answer_aspect == "pad" else None,
        weights_digest=record.encoder.weights_digest,
        encoder_dtype=check_dtype_name(record.environment.dtype),
        feature_dtype=recipe.feature_dtype,
        answer_precision=recipe.answer_precision,
        run_id=record.run_id,
        dim=dim,
    )


def load_run(
    run_folder: Path,
    *,
    encoder: str | None = None,
    form: str | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> LoadedLlava:
    """Returns the trained model of a run; see `checkpoint_of_run` and `load_checkpoint`."""
    from ovbench.harness.understanding.templates import template

    found = checkpoint_of_run(run_folder)
    dtype = "float32" if dtype == "stored" else dtype  # of the trained weights; the base model's file may be smaller
    model = load_llava(found.weights, found.config, dim=found.dim, device=device, dtype=dtype, attn=attn)
    if form is not None:
        model.form = template(form, stop=model.tokenizer.eos_token, tokenizer=model.tokenizer)
    return LoadedLlava(
        model=model,
        encoder=found.encoder if encoder is None else parse_encoder(encoder).canonical,
        tap=found.tap,
        aspect=found.aspect,
        layout="run",
        metadata={"run": found.run_id},
        named=found.encoder,
    )
