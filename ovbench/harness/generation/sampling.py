"""Latents from noise: a network, a solver, guidance, labels and random numbers put together.

Source: arXiv 2510.11690, section 5; github.com/bytetriper/RAE, src/sample_ddp.py.
Contract: the latent of image i depends on (weights, settings, seed, i) alone. On a CPU it is the same to the last bit
for any batch size, number of processes and restart, at one group size and number of threads (docs/design/0007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import Stage2Config
from ovbench.harness.generation.draws import class_labels, indexed_noise, reference_batches
from ovbench.harness.generation.flow_config import SamplingConfig
from ovbench.harness.generation.guidance import blend, check_guidance, in_interval
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.slots import Group, default_group_size, groups
from ovbench.harness.generation.solvers import is_adaptive, solve, time_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Latents of some images."""

    indices: tuple[int, ...]  # numbers of the images
    labels: Tensor  # int64 [n], on the CPU
    latents: Tensor  # float32 [n, C, H, W], normalised, on the network's device


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """How often networks ran for each image; means where they are of several, as an adaptive solver makes them."""

    velocities: float  # NFE: velocities that the solver asked for
    network: float  # passes of the network, the one without class included
    guide: float  # passes of the guide


def group_size_of(config: SamplingConfig, network: Stage2Config, device: torch.device) -> int:
    """Returns how many images go through a network at once: the setting, or what keeps the device busy."""
    if config.group_size is not None:
        return config.group_size
    # An adaptive solver takes the steps that all images of a pass need, so each image has a pass of its own.
    return 1 if is_adaptive(config.method) else default_group_size(network.num_tokens, device)


class Sampler:
    """Makes latents; `evaluations` says what each of the last ones cost."""

    def __init__(
        self,
        network: Stage2Network,
        config: SamplingConfig,
        *,
        seed: int,
        shift: float,
        guide: Stage2Network | None = None,
    ) -> None:
        """Checks that the parts fit.

        Args:
            network: In float32; its device is where everything is computed.
            config: Settings.
            seed: Of the run.
            shift: Of times, as in training: `TransportConfig.shift_of`.
            guide: The weaker network of autoguidance.

        Raises:
            ConfigError: See `check_guidance`; or the networks are on different devices.
        """
        check_guidance(config.guidance, network, guide)
        self.network, self.guide, self.config, self.seed = network, guide, config, seed
        self.device = next(network.parameters()).device
        if guide is not None and next(guide.parameters()).device != self.device:
            raise ConfigError("the network and its guide are on different devices", where="guidance")
        self.grid = time_grid(config.grid, config.num_steps, shift)
        size = network.config.input_size
        self.shape = (network.config.in_channels, size, size)
        self.group_size = group_size_of(config, network.config, self.device)
        self._counts = [0, 0, 0]

    @property
    def evaluations(self) -> Evaluations:
        """What each of the images made last cost."""
        velocities, network, guide = self._counts
        return Evaluations(velocities=velocities, network=network, guide=guide)

    def labels(self, indices: Sequence[int]) -> Tensor:
        """Returns the classes of images, int64 [n], on the CPU."""
        return class_labels(self.seed, indices, self.network.config.num_classes, self.config.labels)

    def passes(self, indices: Sequence[int]) -> Iterator[tuple[Group, Samples]]:
        """Yields the wanted images pass after pass; see `slots.Group` for running a decoder in the same slots.

        Args:
            indices: Numbers of images, rising.

        Raises:
            ConfigError: They do not rise, or the settings ask for the reference's random numbers.
        """
        self._expect_rng("indexed")
        for group in groups(indices, self.group_size):
            labels = self.labels(group.indices)
            noise = group.fill(indexed_noise(self.seed, group.indices, self.shape))
            latents = group.take(self.solve(noise, group.fill(labels)))
            yield group, Samples(indices=group.indices, labels=labels, latents=latents)

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Samples]:
        """Yields the wanted images in batches of a size that changes nothing but how many come at once.

        Args:
            indices: Numbers of images, rising.
            batch_size: Images of a batch; the last one can have fewer.

        Raises:
            ConfigError: See `passes`; or the batch size is not positive.
        """
        if batch_size < 1:
            raise ConfigError(f"the batch size must be positive, got {batch_size}", where="--batch-size")
        numbers: list[int] = []
        labels: list[Tensor] = []
        latents: list[Tensor] = []
        for _, made in self.passes(indices):
            numbers += made.indices
            labels += made.labels
            latents += made.latents
            while len(numbers) >= batch_size:
                yield _samples(numbers[:batch_size], labels[:batch_size], latents[:batch_size])
                del numbers[:batch_size], labels[:batch_size], latents[:batch_size]
        if numbers:
            yield _samples(numbers, labels, latents)

    def reference_batches(
        self, num_images: int, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Samples]:
        """Yields what the reference samples in one process, for parity: its noise, labels, numbers and padding.

        Every result depends on the batch size, the number of processes and the device. Images whose number is
        `num_images` or above are padding.

        Raises:
            ConfigError: The settings ask for indexed random numbers, or see `draws.reference_batches`.
        """
        self._expect_rng("reference")
        drawn = reference_batches(
            num_images,
            self.shape,
            self.network.config.num_classes,
            mode=self.config.labels,
            seed=self.seed,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            device=self.device,
        )
        for step, (noise, labels) in zip(count(), drawn, strict=False):
            first = step * batch_size * world_size + rank
            numbers = tuple(range(first, first + batch_size * world_size, world_size))
            yield Samples(indices=numbers, labels=labels.cpu(), latents=self.solve(noise, labels))

    def _expect_rng(self, wanted: str) -> None:
        if self.config.rng != wanted:
            call = "passes or batches" if self.config.rng == "indexed" else "reference_batches"
            raise ConfigError(
                f"the settings say rng '{self.config.rng}', and this call draws '{wanted}'",
                where="sampling.rng",
                fix=f"set rng to {wanted}, or call {call}",
            )

    @torch.no_grad()
    def solve(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Returns latents, float32 [B, C, H, W], of noise [B, C, H, W] and labels, int64 [B]."""
        config = self.config
        noise, labels = noise.to(self.device, torch.float32), labels.to(self.device)
        self._counts = [0, 0, 0]
        return solve(
            lambda x, t: self._velocity(x, t, labels),
            noise,
            self.grid,
            config.method,
            atol=config.atol,
            rtol=config.rtol,
        )

    def _velocity(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        guidance = self.config.guidance
        guided = guidance.active and bool(in_interval(t, guidance.interval))  # t is on the CPU: no device is waited for
        self._counts[0] += 1
        self._counts[1] += 2 if guided and guidance.kind == "cfg" else 1
        if not guided:
            return self._run(self.network, x, t, labels)
        if guidance.kind == "cfg":
            nulls = torch.full_like(labels, self.network.null_label)
            both = self._run(self.network, torch.cat([x, x]), t, torch.cat([labels, nulls]))
            main, other = both.chunk(2)
        else:
            assert self.guide is not None  # check_guidance
            self._counts[2] += 1
            main, other = self._run(self.network, x, t, labels), self._run(self.guide, x, t, labels)
        return blend(main, other, guidance.scale)

    def _run(self, network: Stage2Network, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Runs a network at one time; where there are few labels, what depends on them alone is computed once each."""
        num_labels = network.config.num_classes + network.config.has_null_label
        few = num_labels <= len(x)
        times = t.to(x.device).expand(num_labels if few else len(x))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if few:
                return network(x, times, torch.arange(num_labels, device=x.device), rows=labels).float()
            return network(x, times, labels).float()


def _samples(indices: list[int], labels: list[Tensor], latents: list[Tensor]) -> Samples:
    return Samples(indices=tuple(indices), labels=torch.stack(labels), latents=torch.stack(latents))
