"""Visual instruction tuning: stage 1 trains the projector on captions, stage 2 also the language model on answers.

Contract: the batch of step s depends on (seed, s) alone. Number of processes, size of passes, sharding and gradient
checkpointing change the result by rounding at most, restarts by nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench.harness.parallel import Processes
from ovbench.harness.training import LoopConfig, Optimised, Progress, no_progress, train_parts, trainable
from ovbench.harness.understanding.config import LlavaConfig, Sharding, StageConfig
from ovbench.harness.understanding.data import Order, TokenSource, TrainingData, tokenize_conversation
from ovbench.harness.understanding.gate import training_rows
from ovbench.harness.understanding.grouping import GroupedOrder, row_lengths
from ovbench.harness.understanding.llava import Llava, Spliced, build_llava, load_weights, save_llava, splice
from ovbench.harness.understanding.losses import Pass, TokenLoss, group_size, num_learnt, passes_of, scales

log = logging.getLogger(__name__)
_AHEAD = ("cuda",)  # devices that compute while a thread loads; on a CPU it would take the cores away


def train_llava(
    tokens: TokenSource,
    *,
    dim: int,
    data: TrainingData,
    config: LlavaConfig,
    seed: int,
    folder: Path,
    stage: int,
    init: Path | None = None,
    source: str = "",
    progress: Progress = no_progress,
    device: str = "cpu",
    processes: Processes | None = None,
    sharding: Sharding = "none",
    pass_size: int | None = None,
) -> Path:
    """Trains one stage and returns its weights file; the same call again continues where it was killed.

    Args:
        tokens: Image ids → frozen visual tokens, float32 `[B, N, dim]`.
        dim: Width of the visual tokens.
        data: Conversations.
        config: The recipe.
        seed: Projector initialisation and data order.
        folder: Checkpoint, log and result of both stages; the same for all processes.
        stage: 1 or 2.
        init: Weights of stage 1, for stage 2; None starts from a fresh projector.
        source: Names what `tokens` returns (the features' fingerprint), so that a checkpoint of others is not used.
        progress: Told after each step.
        device: Torch device, where no processes are given.
        processes: Share each batch; they name the device.
        sharding: `fsdp2` spreads weights, gradients and the optimiser's state over the processes.
        pass_size: Conversations of one forward pass, at most; None: the recipe's micro-batch.

    Returns:
        `stage<n>.safetensors`: the projector as `model.mm_projector.*`, in stage 2 also the language model's own keys.

    Raises:
        ConfigError: `init` is given for stage 1, or the batch cannot be split over the processes.
        DataError: A batch teaches nothing, or a conversation or image cannot be used.
        OvbenchError: The loss became NaN or infinite.
    """
    settings = config.stage(stage)
    if stage == 1 and init is not None:
        raise ConfigError("stage 1 starts from a fresh projector", where="init", fix="leave it out")
    processes = processes or Processes(device=torch.device(device))
    count = processes.share(settings.batch_size, "a batch")
    sharded = sharding == "fsdp2" and processes.several
    if sharding == "fsdp2" and not sharded:
        log.warning("--sharding fsdp2 has no effect on one process: start several with torchrun")
    make_dir(folder)
    # Sharded weights go to the GPU block by block, since the whole might not fit.
    model = build_llava(config, dim, seed=seed, stage=stage, device="cpu" if sharded else str(processes.device))
    if init is not None:
        load_weights(init, model)
    _prepare(model, config, stage, processes.device)
    loss = TokenLoss(model, autocast=config.precision == "bfloat16")
    shared = processes.shard(loss, _blocks(model)) if sharded else processes.data_parallel(loss)
    rows = training_rows(data.size(stage), config.gate) if stage == 1 else np.arange(data.size(stage))
    steps = settings.num_steps(len(rows))
    feed = _Feed(
        model,
        tokens,
        data,
        config,
        stage=stage,
        rows=rows,
        order=_order(data, settings, rows, seed=seed, stage=stage),
        share=range(processes.rank * count, (processes.rank + 1) * count),
        pass_size=pass_size,
        last=steps if processes.device.type in _AHEAD else 0,
    )
    modules: dict[str, nn.Module] = {"llava": model} if stage == 2 else {"projector": model.projector}
    loop = LoopConfig(
        steps=steps,
        lr=settings.lr,
        warmup_steps=settings.warmup_steps_of(steps),
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        checkpoint_every=settings.checkpoint_every,
        log_every=min(10, settings.checkpoint_every),
    )
    recipe = {
        "config": config.identity(),
        "data": data.digest,
        "seed": seed,
        "stage": stage,
        "init": file_sha256(init) if init is not None else None,
        "source": source,
    }
    try:
        train_parts(
            modules=modules,
            parts=(
                Optimised(
                    config=loop,
                    parameters=trainable(modules),
                    lr_at=lambda step: _lr_at(step, loop, settings),
                    backward=_backward(shared, feed, settings, processes),
                ),
            ),
            config=loop,
            folder=folder,
            name=f"stage{stage}",
            recipe=recipe,
            processes=processes,
            progress=progress,
        )
    finally:
        feed.close()
    path = folder / f"stage{stage}.safetensors"
    metadata = {"recipe": fingerprint(recipe)}
    save_llava(path, model, with_language_model=stage == 2, metadata=metadata, processes=processes)
    processes.barrier()
    return path


def _prepare(model: Llava, config: LlavaConfig, stage: int, device: torch.device) -> None:
    """Says what is trained and how, before anything is wrapped."""
    model.train()
    model.language_model.requires_grad_(stage == 2)
    if config.gradient_checkpointing:
        language_model = model.language_model
        if not language_model.supports_gradient_checkpointing:
            raise ConfigError(
                f"{type(language_model).__name__} cannot compute its activations twice",
                where="understanding.gradient_checkpointing",
                fix="set it to false",
            )
        # The older name warns where there is the new one; both take these options first.
        name = "activation_checkpointing_enable"
        enable = getattr(language_model, name, None) or language_model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if device.type != "cpu" and model.device.type == "cpu":  # built on the CPU to be sharded
        model.language_model.set_attn_implementation("sdpa")


def _blocks(model: Llava) -> list[nn.Module]:
    """Returns the language model's blocks, which transformers names as those that must stay whole.

    Raises:
        ConfigError: It names none.
    """
    names = set(model.language_model._no_split_modules or ())
    found = [module for module in model.language_model.modules() if type(module).__name__ in names]
    if not found:
        raise ConfigError(
            f"transformers names no blocks of {type(model.language_model).__name__} to shard by",
            where="--sharding",
            fix="use --sharding none",
        )
    return found


def _lr_at(step: int, loop: LoopConfig, settings: StageConfig) -> float:
    if settings.warmup_from_zero and step < loop.warmup_steps:
        return loop.lr * step / loop.warmup_steps
    return loop.lr_at(step)


def _order(data: TrainingData, settings: StageConfig, rows: np.ndarray, *, seed: int, stage: int) -> Any:
    """Returns step, batch size → (place in `rows`, epoch) of each sample."""
    if not settings.group_by_modality_length:
        return Order(seed, stage, len(rows))
    words, pictured = row_lengths(data, stage, rows)
    num_parts = settings.batch_size // (settings.micro_batch or settings.batch_size)
    return GroupedOrder(seed, stage, words, pictured, batch_size=settings.batch_size, num_parts=num_parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """What one process reads for a step."""

    passes: list[Pass]
    batches: list[tuple[Spliced, Tensor | None]]
    learnt: list[int]  # tokens of each pass
    positions: int  # of all passes, text and visual, without padding


class _Feed:
    """Loads a process's share of each step; on a GPU a thread loads the next one meanwhile.

    Args:
        last: Number of steps; 0: nothing is loaded ahead.
    """

    def __init__(
        self,
        model: Llava,
        tokens: TokenSource,
        data: TrainingData,
        config: LlavaConfig,
        *,
        stage: int,
        rows: np.ndarray,
        order: Callable[[int, int], Iterable[tuple[int, int]]],
        share: range,
        pass_size: int | None,
        last: int,
    ) -> None:
        self._form, self._tokenizer, self._pad = model.form, model.tokenizer, model.pad
        self._tokens, self._data, self._config, self._stage = tokens, data, config, stage
        self._rows, self._order, self._last = rows, order, last
        self._settings = config.stage(stage)
        self._share = share
        self._passes = passes_of(self._settings, share, pass_size=pass_size)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="llava-feed") if last else None
        self._next: tuple[int, Future[_Loaded]] | None = None

    def __call__(self, step: int) -> _Loaded:
        if self._threads is None:
            return self._load(step)
        waiting, self._next = self._next, None
        loaded = waiting[1].result() if waiting is not None and waiting[0] == step else self._load(step)
        if step + 1 < self._last:
            self._next = (step + 1, self._threads.submit(self._load, step + 1))
        return loaded

    def close(self) -> None:
        """Ends the thread."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def _load(self, step: int) -> _Loaded:
        chosen = list(self._order(step, self._settings.batch_size))
        batches = [self._batch([chosen[place] for place in item.places]) for item in self._passes]
        return _Loaded(
            passes=self._passes,
            batches=batches,
            learnt=[num_learnt(batch) for batch, _ in batches],
            positions=sum(int(batch.lengths.sum()) for batch, _ in batches),
        )

    def _batch(self, chosen: list[tuple[int, int]]) -> tuple[Spliced, Tensor | None]:
        conversations = [self._data.conversation(self._stage, int(self._rows[row]), visit) for row, visit in chosen]
        strict = self._config.strict_reference
        samples = [
            tokenize_conversation(item, self._tokenizer, self._form, strict_reference=strict) for item in conversations
        ]
        image_ids = [item.image_id for item in conversations if item.image_id is not None]
        visual = self._tokens(image_ids) if image_ids else None
        num_visual = visual.shape[1] if visual is not None else 0
        return splice(samples, num_visual=num_visual, pad=self._pad, max_length=self._config.max_length), visual


def _backward(
    shared: nn.Module, feed: _Feed, settings: StageConfig, processes: Processes
) -> Callable[[int], dict[str, Tensor]]:
    """Returns the passes of a step: the loss, and the positions read in all and in a second."""
    num_groups = settings.batch_size // group_size(settings)
    world = processes.world_size
    ended: list[float] = []

    def backward(step: int) -> dict[str, Tensor]:
        loaded = feed(step)
        total = torch.zeros((), device=processes.device)
        divisors = scales(loaded.passes, loaded.learnt, num_groups, processes)
        for item, (batch, visual), divisor in zip(loaded.passes, loaded.batches, divisors, strict=True):
            with processes.summing_later(shared, item is not loaded.passes[-1]):
                # Gradients and losses are means over processes, and a share is a part of the sum.
                part = shared(batch, visual) / divisor * world
                part.backward()
            total += part.detach()
        terms = {"loss": total, "tokens": torch.tensor(float(loaded.positions * world), device=processes.device)}
        now = time.monotonic()
        if ended:  # since the end of the pass before: together with the optimiser's work, on all processes alike
            speed = loaded.positions * world / max(now - ended[0], 1e-9)
            terms["tokens_per_s"] = torch.tensor(speed, device=processes.device)
        ended[:] = [now]
        return terms

    return backward
