"""One training loop for every part of ovbench: AdamW, warm-up and cosine, clipping, checkpoints, exact resume.

Contract: the batch, the noise and the augmentation of step *s* depend on (seed, *s*) alone, so a run that was killed
and continued gives the same weights as one that was not. Under several processes one of them writes, all read.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench._base.files import append_jsonl, atomic_write_text, jsonl, read_jsonl
from ovbench.harness.checkpoint import TrainingState, collect, load_state, restore, save_state
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.sharding import any_sharded, whole

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimised:
    """One optimiser of a training, and what it moves. A GAN has two."""

    config: LoopConfig  # betas, eps, weight decay and clipping; its steps are not looked at
    parameters: Mapping[str, torch.nn.Parameter]  # by names that are unique over all optimisers of the training
    lr_at: Callable[[int], float]  # step of the training → learning rate
    backward: Callable[[int], Mapping[str, torch.Tensor]]  # step → named losses, gradients left in the parameters
    active: Callable[[int], bool] = lambda step: True  # whether it is moved in a step
    loss: str = "loss"  # which of the named losses it descends

    def optimizer(self) -> torch.optim.Optimizer:
        """Returns AdamW; weight decay is on matrices only."""
        parameters = self.parameters.values()
        decayed = [p for p in parameters if p.ndim >= 2]
        plain = [p for p in parameters if p.ndim < 2]
        groups = [
            {"params": group, "weight_decay": decay}
            for group, decay in ((decayed, self.config.weight_decay), (plain, 0.0))
            if group
        ]
        return torch.optim.AdamW(groups, lr=self.config.lr, betas=self.config.betas, eps=self.config.eps, foreach=True)


def trainable(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters that require a gradient, by the name of the module and their own."""
    return {
        f"{prefix}.{key}": parameter
        for prefix, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


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

    def backward(step: int) -> Mapping[str, torch.Tensor]:
        terms = losses(step)
        if bool(terms["loss"].detach().isfinite()):  # what is not is refused below, before any weight moves
            terms["loss"].backward()
        return terms

    part = Optimised(config=config, parameters=trainable(modules), lr_at=config.lr_at, backward=backward)
    return train_parts(
        modules=modules,
        parts=(part,),
        config=config,
        folder=folder,
        name=name,
        recipe=recipe,
        progress=progress,
        after_step=after_step,
    )


def train_parts(
    *,
    modules: Mapping[str, torch.nn.Module],
    parts: Sequence[Optimised],
    config: LoopConfig,
    folder: Path,
    name: str,
    recipe: object,
    processes: Processes = ALONE,
    progress: Progress = no_progress,
    before_save: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains with one or more optimisers, one after the other in each step; continues from a checkpoint.

    Args:
        modules: All modules whose state belongs to the run, trained or not, by name: averages too.
        parts: The optimisers. Gradients are cleared before each one's `backward`.
        config: Number of steps, and how often to save and to log.
        folder: Holds `<name>.state.safetensors` and `<name>.log.jsonl`; the same for all processes.
        name: Name of the training.
        recipe: Everything that identifies the run; a checkpoint of another recipe is ignored. Number of processes and
            size of the passes are not in it, since they change nothing.
        processes: All take part in each step, and the main one writes.
        progress: Told after each step.
        before_save: Called with the number of finished steps after each update and before a checkpoint: it moves what
            the checkpoint has to hold, such as averages.
        after_step: Called with the number of finished steps after that (snapshots, evaluation).

    Returns:
        The log rows: `step`, `elapsed_s`, each loss averaged since the row before, and `lr` and `grad_norm` of the
        first optimiser.

    Raises:
        OvbenchError: A loss or a gradient became NaN or infinite; the last checkpoint is kept.
    """
    optimizers = [part.optimizer() for part in parts]
    sharded = any(any_sharded(module) for module in modules.values())
    state_path, log_path = folder / f"{name}.state.safetensors", folder / f"{name}.log.jsonl"
    identity = {"recipe": recipe, "config": replace(config, checkpoint_every=1, log_every=1), "name": name}
    state = _readable_state(state_path, identity) if processes.is_main else None
    processes.barrier()  # a damaged checkpoint has been set aside
    if not processes.is_main:
        state = _readable_state(state_path, identity)
    start = 0
    rows: list[dict[str, Any]] = []
    if state is not None:
        for number, (optimizer, part) in enumerate(zip(optimizers, parts, strict=True)):
            restore(state.tensors, modules if number == 0 else {}, optimizer, part.parameters)
        start = state.step
        # A run killed before its first log row has a checkpoint and no log.
        logged = read_jsonl(log_path, drop_torn_tail=True) if log_path.is_file() else []
        rows = [row for row in logged if row["step"] <= start]
    processes.barrier()  # all have read the log
    if processes.is_main and log_path.exists():
        atomic_write_text(log_path, jsonl(rows))
    elapsed = float(rows[-1]["elapsed_s"]) if rows else 0.0
    began = time.monotonic()
    means = _Means(processes)
    for step in range(start, config.steps):
        done = step + 1
        saves = done % config.checkpoint_every == 0 or done == config.steps
        logs = done % config.log_every == 0 or done == config.steps
        terms: dict[str, torch.Tensor] = {}
        for number, (optimizer, part) in enumerate(zip(optimizers, parts, strict=True)):
            if not part.active(step):
                continue
            for group in optimizer.param_groups:
                group["lr"] = part.lr_at(step)
            optimizer.zero_grad(set_to_none=True)
            found = part.backward(step)
            means.add({key: term.detach() for key, term in found.items()})
            # Reading a number makes a GPU wait: there it is done when something is logged or saved.
            if processes.device.type == "cpu" or logs or saves:
                means.refuse_bad(step, name, log_path)
            limit = part.config.clip_norm if part.config.clip_norm is not None else math.inf
            norm = whole(torch.nn.utils.clip_grad_norm_(list(part.parameters.values()), limit, foreach=True).detach())
            terms["grad_norm" if number == 0 else f"grad_norm_{number}"] = norm
            means.watch("gradient", norm)
            if processes.device.type == "cpu" or logs or saves:
                means.refuse_bad(step, name, log_path)
            optimizer.step()
        if before_save is not None:
            before_save(done)
        if logs:
            row = means.take() | {key: float(value) for key, value in terms.items()}
            row |= {
                "step": done,
                "lr": parts[0].lr_at(step),
                "elapsed_s": round(elapsed + time.monotonic() - began, 3),
            }
            rows.append(row)
            if processes.is_main:
                append_jsonl(log_path, [row])
        if after_step is not None:
            after_step(done)
        if saves and (processes.is_main or sharded):
            tensors: dict[str, torch.Tensor] = {}
            for number, (optimizer, part) in enumerate(zip(optimizers, parts, strict=True)):
                tensors |= collect(modules if number == 0 else {}, optimizer, part.parameters)  # weights once
            if processes.is_main:
                save_state(state_path, TrainingState(tensors=tensors, step=done), recipe=identity)
        progress(done, config.steps, **means.last(parts[0].loss))
    processes.barrier()
    return rows


class _Means:
    """Losses of the steps since the last log row, on their device, over all processes."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._watched: dict[str, torch.Tensor] = {}
        self._last: dict[str, torch.Tensor] = {}

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        if self._processes.several:  # one reduction for all
            values = self._processes.mean(torch.stack([term.float() for term in terms.values()]))
            terms = dict(zip(terms, values, strict=True))
        for key, term in terms.items():
            self._sums[key] = self._sums[key] + term.double() if key in self._sums else term.double()
            self._counts[key] = self._counts.get(key, 0) + 1
            self.watch(key, term)
        self._last.update(terms)

    def watch(self, key: str, value: torch.Tensor) -> None:
        """Remembers a number that must stay finite."""
        self._watched[key] = self._watched[key] + value if key in self._watched else value

    def refuse_bad(self, step: int, name: str, log_path: Path) -> None:
        """Raises where a number since the last call was NaN or infinite; all processes do, as all hold the same."""
        watched, self._watched = self._watched, {}
        for key, value in watched.items():
            if not math.isfinite(number := float(value)):
                what = "the gradient" if key == "gradient" else "the loss" if key == "loss" else f"the term '{key}'"
                raise OvbenchError(
                    f"{what} became {number} at step {step + 1} of {name}",
                    where=str(log_path),
                    fix="lower the learning rate; the last good checkpoint is kept beside the log",
                )

    def last(self, key: str) -> dict[str, float]:
        """Returns the newest value of the loss for a progress line; on a GPU none, since reading it would wait."""
        on_cpu = self._processes.device.type == "cpu" and key in self._last
        return {"loss": float(self._last[key])} if on_cpu else {}

    def take(self) -> dict[str, float]:
        """Returns the means and starts anew."""
        means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def _readable_state(path: Path, identity: object) -> TrainingState | None:
    try:
        return load_state(path, recipe=identity)
    except DataError as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning("the checkpoint %s is damaged (%s): set aside as %s, training starts anew", path, error.what, aside)
        return None
