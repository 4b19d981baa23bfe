"""One training loop for every part of ovbench: AdamW, warm-up and cosine, clipping, checkpoints, exact resume.

Contract: the batch, the noise and the augmentation of step *s* depend on (seed, *s*) alone, so a run that was killed
and continued gives the same weights as one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench._base.files import append_jsonl, atomic_write_text, jsonl, read_jsonl
from ovbench.harness.checkpoint import TrainingState, collect, load_state, restore, save_state

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Is told about each finished unit of work; the command line turns it into a bar or into lines."""

    def __call__(self, done: int, total: int, **fields: float) -> None:
        """Takes the number of finished units, of all units, and figures such as the loss."""
        ...


def no_progress(done: int, total: int, **fields: float) -> None:
    """Ignores progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Optimisation of one training phase."""

    steps: int  # optimiser updates
    lr: float  # peak learning rate
    warmup_steps: int = 0  # linear from 0
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up; cosine ends at 0
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    eps: float = 1e-8  # AdamW
    weight_decay: float = 0.0  # on matrices only
    clip_norm: float | None = 1.0  # global gradient norm; None: no clipping
    checkpoint_every: int = 100  # steps
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.checkpoint_every < 1 or self.log_every < 1:
            raise ConfigError(
                f"steps, lr, checkpoint_every and log_every must be positive, got {self.steps}, {self.lr}, "
                f"{self.checkpoint_every}, {self.log_every}",
                where="training schedule",
            )

    def lr_at(self, step: int) -> float:
        """Returns the learning rate of step 0…steps-1."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def train_loop(
    *,
    modules: Mapping[str, torch.nn.Module],
    losses: Callable[[int], Mapping[str, torch.Tensor]],
    config: LoopConfig,
    folder: Path,
    name: str,
    recipe: object,
    progress: Progress = no_progress,
    after_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains every parameter of `modules` that requires a gradient; continues from a checkpoint where one is.

    Args:
        modules: All modules whose state belongs to the run, trained or not, by name.
        losses: Step number → named scalar losses; `loss` is the one that is minimised, the others are logged.
        config: Schedule and optimiser.
        folder: Holds `<name>.state.safetensors` and `<name>.log.jsonl`.
        name: Name of the phase.
        recipe: Everything that identifies the run; a checkpoint of another recipe is ignored.
        progress: Told after each step.
        after_step: Called with the number of finished steps after each update (evaluation during training).

    Returns:
        The log rows: `step`, `lr`, `grad_norm`, `elapsed_s` and each loss, averaged since the row before.

    Raises:
        OvbenchError: The loss became NaN or infinite; the last checkpoint is kept.
    """
    trained = {
        f"{prefix}.{key}": parameter
        for prefix, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    decayed = [p for p in trained.values() if p.ndim >= 2]
    plain = [p for p in trained.values() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        foreach=True,
    )
    state_path, log_path = folder / f"{name}.state.safetensors", folder / f"{name}.log.jsonl"
    identity = {"recipe": recipe, "config": config, "name": name}
    state = _readable_state(state_path, identity)
    start = 0
    rows: list[dict[str, Any]] = []
    if state is not None:
        restore(state.tensors, modules, optimizer, trained)
        start = state.step
        # A run killed before its first log row has a checkpoint and no log.
        logged = read_jsonl(log_path, drop_torn_tail=True) if log_path.is_file() else []
        rows = [row for row in logged if row["step"] <= start]
    if log_path.exists():
        atomic_write_text(log_path, jsonl(rows))
    elapsed = float(rows[-1]["elapsed_s"]) if rows else 0.0
    began = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(start, config.steps):
        lr = config.lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        terms = losses(step)
        loss = terms["loss"]
        if not math.isfinite(value := float(loss.detach())):
            raise OvbenchError(
                f"the loss became {value} at step {step + 1} of {name}",
                where=str(log_path),
                fix="lower the learning rate; the last good checkpoint is kept beside the log",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.clip_norm if config.clip_norm is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), limit, foreach=True)
        if not math.isfinite(float(norm)):
            raise OvbenchError(
                f"the gradient became {float(norm)} at step {step + 1} of {name}",
                where=str(log_path),
                fix="lower the learning rate; the last good checkpoint is kept beside the log",
            )
        optimizer.step()
        done = step + 1
        for key, term in terms.items():
            sums[key] = sums.get(key, 0.0) + float(term.detach())
        if done % config.log_every == 0 or done == config.steps:
            span = (done - 1) % config.log_every + 1
            row = {key: total / min(span, done - start) for key, total in sums.items()}
            sums = {}
            row |= {
                "step": done,
                "lr": lr,
                "grad_norm": float(norm),
                "elapsed_s": round(elapsed + time.monotonic() - began, 3),
            }
            rows.append(row)
            append_jsonl(log_path, [row])
        if after_step is not None:
            after_step(done)
        if done % config.checkpoint_every == 0 or done == config.steps:
            save_state(
                state_path, TrainingState(tensors=collect(modules, optimizer, trained), step=done), recipe=identity
            )
        progress(done, config.steps, loss=value)
    return rows


def _readable_state(path: Path, identity: object) -> TrainingState | None:
    try:
        return load_state(path, recipe=identity)
    except DataError as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning("the checkpoint %s is damaged (%s): set aside as %s, training starts anew", path, error.what, aside)
        return None
