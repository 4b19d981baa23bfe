"""Stage 2: a diffusion transformer learns the velocity of flow matching on normalised latents.

Source: arXiv 2510.11690, sections 4.2 and 5; github.com/bytetriper/RAE, src/train.py and configs/stage2/training. Not
as there: micro-batches add up, resuming is exact, and position tables and time frequencies are fixed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovbench._base.seeding import derive
from ovbench.harness.generation.config import Stage2Config
from ovbench.harness.generation.draws import TrainingDraws, training_draws
from ovbench.harness.generation.flow_config import TransportConfig
from ovbench.harness.generation.imagenet_data import prefetch
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.network_weights import build_network, save_network
from ovbench.harness.generation.optimising import identity_of, loop_config
from ovbench.harness.generation.options_config import Sharding
from ovbench.harness.generation.picture_data import training_flips, training_order
from ovbench.harness.generation.recipe_config import DiTRecipe
from ovbench.harness.generation.schedules import EMA, learning_rate
from ovbench.harness.generation.transport import transport_loss
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.training import Optimised, Progress, no_progress, train_parts, trainable

log = logging.getLogger(__name__)
NAME = "dit"
_SWIGLU_MULTIPLE = {"float32": 1, "bfloat16": 64}  # of the padded width: tensor cores need multiples of 8
LOADED_AHEAD = ("cuda",)  # devices that compute while a thread loads; on a CPU it would take the cores away
Latents = Callable[[Sequence[int], Sequence[bool]], Tensor]  # numbers, mirrored → normalised [B, C, h, w]


def weights_name(epochs: float | None = None) -> str:
    """Returns the file of the averaged weights: at the end, or after so many epochs."""
    return f"{NAME}.safetensors" if epochs is None else f"{NAME}-{epochs:g}ep.safetensors"


class _Loss(nn.Module):
    """What DistributedDataParallel sees: a batch's loss as a forward pass."""

    def __init__(self, network: Stage2Network, transport: TransportConfig, *, autocast: bool) -> None:
        super().__init__()
        self.network, self.transport, self.autocast = network, transport, autocast

    def forward(
        self, data: Tensor, labels: Tensor, uniforms: Tensor, drop: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        draws = TrainingDraws(uniforms=uniforms, drop=drop, noise=noise)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=self.autocast):
            found = transport_loss(self.network, data, labels, draws, self.transport)
        return found.per_image, found.times


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """What a pass of the training reads."""

    samples: range  # running numbers over the whole training
    data: Tensor  # [B, C, h, w], where `latents` leaves it
    labels: Tensor  # int64 [B], on the CPU
    draws: TrainingDraws


def _loaded(wanted: Iterator[range], load: Callable[[range], _Pass], *, ahead: bool) -> Generator[_Pass]:
    """Yields what passes read, in order; with `ahead` a thread loads the next one while one is computed."""
    for first in islice(wanted, 1):
        yield load(first)  # here, since what latents rest on may be made at the first call
    yield from prefetch(wanted, load, depth=1) if ahead else map(load, wanted)


class _Batches:
    """What each pass of the training reads, in the order of the steps.

    Args:
        latents: See `train_dit`.
        labels: See `train_dit`.
        config: Of the network.
        recipe: Sizes of batches and passes, flips.
        seed: Of order and draws.
        processes: Share each batch; on a GPU a thread loads ahead.
    """

    def __init__(
        self,
        latents: Latents,
        labels: NDArray[Any],
        config: Stage2Config,
        recipe: DiTRecipe,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        self._latents, self._labels, self._config, self._recipe = latents, labels, config, recipe
        self._seed, self._rank = seed, processes.rank
        self._ahead = processes.device.type in LOADED_AHEAD
        self._share = processes.share(recipe.optimiser.batch_size, "a batch")
        self._micro = min(recipe.optimiser.micro_batch or self._share, self._share)
        self._stream: Generator[_Pass] | None = None  # from the step at which the loop begins

    def passes_of(self, step: int) -> list[range]:
        """Returns the running numbers of the samples of each pass of a step."""
        first = step * self._recipe.optimiser.batch_size + self._rank * self._share
        last = first + self._share
        return [range(start, min(start + self._micro, last)) for start in range(first, last, self._micro)]

    def next(self, samples: range, step: int) -> _Pass:
        """Returns what the next pass reads; the loop asks for every pass once, in order, from any step on."""
        if self._stream is None:
            steps = self._recipe.optimiser.num_steps(len(self._labels))
            wanted = (samples for later in range(step, steps) for samples in self.passes_of(later))
            self._stream = _loaded(wanted, self._load, ahead=self._ahead)
        found = next(self._stream)
        assert found.samples == samples, "the loop takes every step once, in order"
        return found

    def _load(self, samples: range) -> _Pass:
        seed, count, config = self._seed, len(samples), self._config
        indices = training_order(seed, "dit/order", samples.start, count, len(self._labels))
        flips = training_flips(seed, "dit/flip", samples.start, count) if self._recipe.flips else [False] * count
        shape = (config.in_channels, config.input_size, config.input_size)
        return _Pass(
            samples=samples,
            data=self._latents(indices, list(flips)),
            labels=torch.as_tensor(self._labels[indices]),
            draws=training_draws(seed, samples, shape, drop_probability=config.class_dropout_prob),
        )

    def close(self) -> None:
        """Ends the thread that loads."""
        if self._stream is not None:
            self._stream.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """The networks of a training."""

    network: Stage2Network
    ema: EMA
    shared: nn.Module  # is called for the loss: gradients are means over all processes


def _parts(
    config: Stage2Config,
    recipe: DiTRecipe,
    *,
    seed: int,
    processes: Processes,
    sharding: Sharding,
    compile: bool,
) -> _Parts:
    """Returns the untrained network with its average, on the device or spread over the processes."""
    optimiser = recipe.optimiser
    network = build_network(
        config, seed=derive(seed, "dit/init"), swiglu_multiple=_SWIGLU_MULTIPLE[optimiser.precision]
    ).train()
    sharded = sharding == "fsdp2" and processes.several
    if sharding == "fsdp2" and not sharded:
        log.warning("--sharding fsdp2 has no effect on one process: start several with torchrun")
    if not sharded:  # else the whole network and its average might not fit
        network = network.to(processes.device)
    ema = EMA(network, optimiser.ema)
    if compile:
        for block in network.blocks:
            block.compile()
    loss = _Loss(network, recipe.transport, autocast=optimiser.precision == "bfloat16")
    if sharded:
        shared = processes.shard(loss, network.blocks)
        processes.shard(ema.module, ema.module.blocks)
    else:
        shared = processes.data_parallel(loss)
    return _Parts(network=network, ema=ema, shared=shared)


def train_dit(
    latents: Latents,
    labels: NDArray[Any],
    config: Stage2Config,
    recipe: DiTRecipe,
    *,
    seed: int,
    folder: Path,
    source: str,
    processes: Processes = ALONE,
    sharding: Sharding = "none",
    compile: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Trains a diffusion transformer; the same call again continues.

    Contract: sample k of the training (its picture, flip, time, noise and dropped label) depends on (seed, k) alone, so
    number of processes, micro-batches and restarts change the result by rounding at most, restarts by nothing.

    Args:
        latents: Normalised latents of the training pictures, by number and view.
        labels: Their classes, int64 [N].
        config: Architecture.
        recipe: Optimiser, transport, flips, probes.
        seed: Of weights, order and draws.
        folder: Holds checkpoint, log and the averaged weights.
        source: What latents and labels are, for the identity of the run: a checkpoint of another one is not continued.
        processes: Share each batch.
        sharding: `fsdp2` spreads weights, average and the optimiser's state over the processes, for networks that do
            not fit one GPU; the result is the same to rounding, and the files are the same.
        compile: Compile the blocks, for a GPU.
        progress: Told after each update.

    Returns:
        The averaged weights of the end; those at `recipe.probes` lie beside it (`weights_name`).

    Raises:
        ConfigError: The batch cannot be split, or the latents do not fit.
        OvbenchError: The loss became NaN or infinite; the last checkpoint is kept.
    """
    optimiser, device = recipe.optimiser, processes.device
    count, share = len(labels), processes.share(optimiser.batch_size, "a batch")
    parts = _parts(config, recipe, seed=seed, processes=processes, sharding=sharding, compile=compile)
    network, ema = parts.network, parts.ema
    batches = _Batches(latents, labels, config, recipe, seed=seed, processes=processes)

    def backward(step: int) -> dict[str, Tensor]:
        total = torch.zeros((), device=device)
        own = batches.passes_of(step)
        for samples in own:
            found = batches.next(samples, step)
            data, draws = found.data.to(device, non_blocking=True), found.draws
            network.check_latents(data)
            with processes.summing_later(parts.shared, samples is not own[-1]):
                per_image, _ = parts.shared(data, found.labels.to(device), draws.uniforms, draws.drop, draws.noise)
                part = per_image.sum() / share
                part.backward()
            total += part.detach()
        return {"loss": total}

    steps_per_epoch = optimiser.steps_per_epoch(count)
    probes = recipe.probe_steps(count)

    def after_step(done: int) -> None:
        if done in probes:
            save_network(folder / weights_name(probes[done]), ema.module, processes)

    modules = {"network": cast(nn.Module, network), "ema": cast(nn.Module, ema.module)}
    try:
        train_parts(
            modules=modules,
            parts=(
                Optimised(
                    config=loop_config(optimiser, count),
                    parameters=trainable({"network": network}),
                    lr_at=lambda step: learning_rate(step, optimiser.schedule, steps_per_epoch),
                    backward=backward,
                ),
            ),
            config=loop_config(optimiser, count),
            folder=folder,
            name=NAME,
            recipe={
                "network": asdict(config),
                "optimiser": identity_of(optimiser),
                "transport": asdict(recipe.transport),
                "flips": recipe.flips,
                "seed": seed,
                "source": source,
                "pictures": count,
            },
            processes=processes,
            progress=progress,
            before_save=lambda done: ema.update(done - 1),
            after_step=after_step,
        )
    finally:
        batches.close()
    save_network(folder / weights_name(), ema.module, processes)
    processes.barrier()
    return folder / weights_name()
