"""Each saving of the generation side with and without it, in alternating rounds, with a check that results are equal.

The savings are those of the cost model: what the reference's programs do twice, keep for nothing or send through files.
A part of `speed_generation.py`; it does nothing by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from generation_baseline import (
    ReferenceSampler,
    doubled_velocity,
    plain_velocity,
    score_by_files,
    solve_keeping_states,
)
from generation_sizes import (
    SEED,
    Size,
    decode_u8,
    decoder_of,
    discriminator_of,
    network_of,
    perceptual_of,
    pixels,
)
from side_by_side import MIN_S, Side, compare, skipped
from torch import Tensor

from ovbench._base.errors import DependencyError
from ovbench._base.lazy import require
from ovbench.harness.generation.blocks import SwiGLU
from ovbench.harness.generation.decoder_config import AugmentConfig, DecoderLossConfig
from ovbench.harness.generation.diffaug import diff_augment, draw_by_index
from ovbench.harness.generation.draws import class_labels, indexed_noise
from ovbench.harness.generation.flow_config import EMAConfig, GuidanceConfig, SamplingConfig
from ovbench.harness.generation.losses import balance, generator_loss, lambda_of, reconstruction_loss, to_pm1
from ovbench.harness.generation.sampling import Sampler
from ovbench.harness.generation.schedules import EMA
from ovbench.harness.generation.solvers import solve
from ovbench.harness.metrics.extractors import Extractor, load_extractor
from ovbench.harness.metrics.feature_sets import FeatureAccumulator
from ovbench.harness.metrics.inception_weights import RANDOM

SCALE = 1.42  # of RAE's autoguidance at 256 px
PADDING = 64  # of SwiGLU's width


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every measurement is given."""

    size: Size
    device: torch.device
    rounds: int
    tolerance: float  # largest relative difference of float32 results on this device
    min_s: float = MIN_S

    def compare(self, ours: Side, theirs: Side, *, tolerance: float | None, memory: bool = False) -> dict[str, Any]:
        """Returns `side_by_side.compare` with this bench's settings."""
        return compare(
            ours,
            theirs,
            rounds=self.rounds,
            device=self.device,
            tolerance=tolerance,
            memory=memory,
            min_s=self.min_s,
        )

    def sampler(self, *, guided: bool = False, precision: Any = "float32") -> Sampler:
        """Returns the package's sampler."""
        guidance = GuidanceConfig(kind="auto", scale=SCALE) if guided else GuidanceConfig()
        return Sampler(
            network_of(self.size.network, self.device),
            SamplingConfig(
                num_steps=self.size.num_steps, group_size=self.size.batch, guidance=guidance, precision=precision
            ),
            seed=SEED,
            shift=self.size.shift,
            guide=network_of(self.size.guide, self.device, seed=SEED + 1) if guided else None,
        )

    def noise(self, first: int = 0) -> tuple[Tensor, Tensor]:
        """Returns noise [B, C, H, W] and labels [B] of the images from `first`, on the device."""
        indices = range(first, first + self.size.batch)
        labels = class_labels(SEED, indices, self.size.network.num_classes)
        return indexed_noise(SEED, indices, self.size.latent_shape).to(self.device), labels.to(self.device)

    @property
    def per_class(self) -> bool:
        """Whether the package's sampler computes what depends on labels alone once per label; see `Sampler`."""
        return self.size.network.num_classes + self.size.network.has_null_label <= self.size.batch

    def extractor(self) -> Extractor:
        """Returns the network that scores, untrained."""
        return load_extractor(self.size.extractor, weights=RANDOM, device=str(self.device))


def single_batch_autoguidance(bench: Bench) -> dict[str, Any]:
    """Autoguidance that runs each network once, against a doubled batch of which half is thrown away."""
    sampler, (noise, labels) = bench.sampler(guided=True), bench.noise()
    network, guide, per_class = sampler.network, sampler.guide, bench.per_class
    assert guide is not None
    doubled = torch.cat([labels, torch.full_like(labels, network.null_label)])

    @torch.no_grad()
    def theirs() -> Sequence[Tensor]:
        def field(x: Tensor, t: Tensor) -> Tensor:
            return doubled_velocity(network, guide, x, t, doubled, SCALE, per_class=per_class)

        return [solve(field, torch.cat([noise, noise]), sampler.grid, "euler")[: len(noise)]]

    return bench.compare(lambda: [sampler.solve(noise, labels)], theirs, tolerance=bench.tolerance, memory=True)


def padded_swiglu(bench: Bench) -> dict[str, Any]:
    """SwiGLU padded to a multiple of 64, forward and backward; in bfloat16 on a GPU, which is what it is for."""
    plain, padded = (network_of(bench.size.network, bench.device, multiple=multiple) for multiple in (1, PADDING))
    x, labels = bench.noise()
    times = torch.full((len(x),), 0.5, device=bench.device)
    low = bench.device.type == "cuda"

    def side(network: Any) -> Side:
        def run() -> Sequence[Tensor]:
            network.zero_grad(set_to_none=True)
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=low):
                velocity = network(x, times, labels).float()
            velocity.square().mean().backward()
            return [velocity.detach(), network.x_embedder.proj.weight.grad.clone()]

        return run

    found = bench.compare(side(padded), side(plain), tolerance=0.05 if low else bench.tolerance)
    widths = [(module.hidden, module.padded) for module in padded.modules() if isinstance(module, SwiGLU)]
    return {
        **found,
        "backbone_width": widths[0],
        "head_width": widths[-1],
        "precision": "bfloat16" if low else "float32",
    }


def no_trajectory(bench: Bench) -> dict[str, Any]:
    """The package's Euler, which keeps one state, against torchdiffeq's, which keeps one per point."""
    try:
        require("torchdiffeq", extra="offline", purpose="the reference's solver")
    except DependencyError as error:
        return skipped(f"{error.what}; {error.fix}")
    sampler, (noise, labels) = bench.sampler(), bench.noise()

    def field(x: Tensor, t: Tensor) -> Tensor:
        return plain_velocity(sampler.network, x, t, labels, per_class=bench.per_class)

    @torch.no_grad()
    def ours() -> Sequence[Tensor]:
        return [solve(field, noise, sampler.grid, "euler")]

    @torch.no_grad()
    def theirs() -> Sequence[Tensor]:
        return [solve_keeping_states(field, noise, sampler.grid)]

    found = bench.compare(ours, theirs, tolerance=bench.tolerance, memory=True)
    return {**found, "num_points": len(sampler.grid), "state_bytes": noise.numel() * noise.element_size()}


def no_picture_files(bench: Bench) -> dict[str, Any]:
    """Batches of pictures straight into features, against PNG files that are read back; decoding is in neither."""
    decoder, extractor = decoder_of(bench.size, bench.device), bench.extractor()
    batches = [decode_u8(decoder, bench.noise(first)[0]) for first in (0, bench.size.batch)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = bench.compare(
            lambda: [streamed_features(folder, batches, extractor, 2 * bench.size.batch)],
            lambda: [score_by_files(folder, batches, extractor)],
            tolerance=0.0,  # PNG and npz lose nothing
        )
        sizes = [path.stat().st_size for path in folder.glob("*.png")]
        packed = (folder / "samples.npz").stat().st_size
    return {
        **found,
        "num_images": len(sizes),
        "size_px": bench.size.decoder.output_px,
        "extractor": extractor.info.network,
        "bytes_not_written_per_image": (sum(sizes) + packed) / len(sizes),
    }


def streamed_features(folder: Path, batches: Any, extractor: Extractor, num_images: int) -> Tensor:
    """Returns features [N, D] on the CPU of batches of pictures, uint8 [B, H, W, 3], collected as they come."""
    pool = extractor.info.pool
    accumulator = FeatureAccumulator(extractor.info, num_images, keep=(pool,), folder=folder)
    for images_u8 in batches:
        accumulator.add({pool: extractor.extract(images_u8)[pool]}, accumulator.count)
    return torch.from_numpy(accumulator.finish().rows[pool].copy())


def one_backward_fewer(bench: Bench) -> dict[str, Any]:
    """Stage 1's generator step with `losses.balance`, against two gradients by the last layer and a whole backward."""
    size, device = bench.size, bench.device
    decoder, discriminator = decoder_of(size, device), discriminator_of(size, device)
    distance, losses, augment = perceptual_of(size, device), DecoderLossConfig(), AugmentConfig()
    indices, side_px = range(size.stage1_batch), size.decoder.output_px
    grid = size.decoder.grid
    latents = indexed_noise(SEED, indices, (size.decoder.latent_dim, grid, grid)).to(device)
    images = torch.rand(len(indices), 3, side_px, side_px, generator=torch.Generator().manual_seed(SEED)).to(device)
    draws = draw_by_index(augment, indices, SEED, "generator")
    last = decoder.decoder_pred.weight

    def terms() -> tuple[Tensor, Tensor, Tensor]:
        decoder.zero_grad(set_to_none=True)
        reconstruction = pixels(decoder, latents)
        total = reconstruction_loss(reconstruction, images, losses, distance).total
        with discriminator.heads_frozen():
            logits = discriminator(diff_augment(to_pm1(reconstruction), draws, augment))
        return reconstruction, total, generator_loss(logits, losses.generator_loss)

    def gradients() -> Tensor:
        # As one vector: that of the keys' bias is 0 but for rounding, so it has no size of its own to be held against.
        return torch.cat([parameter.grad.flatten() for parameter in decoder.parameters() if parameter.grad is not None])

    def ours() -> Sequence[Tensor]:
        reconstruction, total, adversarial = terms()
        found = balance(reconstruction, total, adversarial, last, losses)
        reconstruction.backward(found.grad)
        return [found.weight, gradients()]

    def theirs() -> Sequence[Tensor]:
        _, total, adversarial = terms()
        by_last = [torch.autograd.grad(part, last, retain_graph=True)[0] for part in (total, adversarial)]
        weight = lambda_of(*by_last, max_lambda=losses.max_lambda, eps=losses.lambda_eps)
        (total + losses.gan_weight * weight * adversarial).backward()
        return [weight, gradients()]

    return {**bench.compare(ours, theirs, tolerance=bench.tolerance), "batch": size.stage1_batch}


def labels_once(bench: Bench) -> dict[str, Any]:
    """What depends on time and label alone computed once per label, against once per image of a pass."""
    config, batch = bench.size.network, bench.size.batch
    num_labels = config.num_classes + config.has_null_label
    if not bench.per_class:
        return skipped(f"the sampler does so where there are no more labels than images: {num_labels} and {batch}")
    network, (noise, labels) = network_of(config, bench.device), bench.noise()
    time = torch.tensor(0.5)

    def side(per_class: bool) -> Side:
        @torch.no_grad()
        def run() -> Sequence[Tensor]:
            return [plain_velocity(network, noise, time, labels, per_class=per_class)]

        return run

    return {
        **bench.compare(side(True), side(False), tolerance=bench.tolerance),
        "num_labels": num_labels,
        "batch": batch,
    }


def ema_foreach(bench: Bench) -> dict[str, Any]:
    """The moving average of all weights in one call, against a Python loop over them."""
    live, decay = network_of(bench.size.network, bench.device), EMAConfig().decay
    ours = EMA(live, EMAConfig())
    rival = EMA(live, EMAConfig())
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(0.1)

    @torch.no_grad()
    def loop() -> Sequence[Tensor]:
        for average, parameter in zip(rival.module.parameters(), live.parameters(), strict=True):
            average.mul_(decay).add_(parameter.data, alpha=1.0 - decay)
        for average, buffer in zip(rival.module.buffers(), live.buffers(), strict=True):
            average.copy_(buffer)
        return list(rival.module.parameters())

    def foreach() -> Sequence[Tensor]:
        ours.update(0)
        return list(ours.module.parameters())

    return {**bench.compare(foreach, loop, tolerance=bench.tolerance), "num_tensors": len(list(live.parameters()))}


def low_precision(bench: Bench) -> dict[str, Any]:
    """Sampling under bfloat16 autocast against float32: another computation, so the difference is not judged."""
    noise, labels = bench.noise()
    low, full = (bench.sampler(precision=precision) for precision in ("bfloat16", "float32"))
    return bench.compare(lambda: [low.solve(noise, labels)], lambda: [full.solve(noise, labels)], tolerance=None)


def compiled(bench: Bench, *, backend: str = "inductor") -> dict[str, Any]:
    """Sampling with a network under `torch.compile`, both in bfloat16; fused sums round differently."""
    noise, labels = bench.noise()
    ours, plain = bench.sampler(precision="bfloat16"), bench.sampler(precision="bfloat16")
    ours.network.compile(backend=backend)  # in place: it stays a Stage2Network
    return bench.compare(lambda: [ours.solve(noise, labels)], lambda: [plain.solve(noise, labels)], tolerance=0.1)


SAVINGS: Mapping[str, Callable[[Bench], dict[str, Any]]] = MappingProxyType(
    {
        "autoguidance on a single batch": single_batch_autoguidance,
        "padded SwiGLU": padded_swiglu,
        "no trajectory kept": no_trajectory,
        "no picture files": no_picture_files,
        "stage 1: one backward fewer": one_backward_fewer,
        "label-dependent parts once per label": labels_once,
        "EMA in one call": ema_foreach,
    }
)
GPU_SAVINGS: Mapping[str, Callable[[Bench], dict[str, Any]]] = MappingProxyType(
    {"bfloat16 autocast": low_precision, "torch.compile": compiled}
)


def against_reference(bench: Bench, *, guided: bool, passes: int = 1) -> dict[str, Any]:
    """Noise to features: the package against the reference's loop as `generation_baseline` has it."""
    try:
        require("torchdiffeq", extra="offline", purpose="the reference's solver")
    except DependencyError as error:
        return skipped(f"{error.what}; {error.fix}")
    sampler, decoder, extractor = bench.sampler(guided=guided), decoder_of(bench.size, bench.device), bench.extractor()
    reference = ReferenceSampler(network=sampler.network, guide=sampler.guide, scale=SCALE, grid=sampler.grid)
    num_images = passes * bench.size.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ours() -> Sequence[Tensor]:
            made = (decode_u8(decoder, samples.latents) for _, samples in sampler.passes(range(num_images)))
            return [streamed_features(folder, made, extractor, num_images)]

        def theirs() -> Sequence[Tensor]:
            noise = (bench.noise(first) for first in range(0, num_images, bench.size.batch))
            made = (decode_u8(decoder, reference.solve(*part)) for part in noise)
            return [score_by_files(folder, made, extractor)]

        # A grey level that falls on the other side of a whole number moves features by more than rounding.
        found = bench.compare(ours, theirs, tolerance=0.02, memory=True)
    speeds = {f"{side}_images_per_s": num_images / found[f"{side}_s"] for side in ("with", "without")}
    return {**found, **speeds, "num_images": num_images, "extractor": extractor.info.network}
