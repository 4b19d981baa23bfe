"""The loss of stage 2: a network's velocity against that of the linear path at drawn times.

Source: arXiv 2510.11690, section 4.2; github.com/bytetriper/RAE, src/stage2/transport/transport.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovbench.harness.generation.draws import TrainingDraws
from ovbench.harness.generation.flow_config import TransportConfig
from ovbench.harness.generation.interpolants import interpolate, times_from_uniforms, velocity
from ovbench.harness.generation.network import Stage2Network


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportLoss:
    """What a batch gives."""

    loss: Tensor  # scalar, mean of `per_image`
    per_image: Tensor  # [B], mean over C, H and W
    times: Tensor  # [B], shifted


def velocity_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared difference per image, float32 [B]: no weight by time."""
    return (predicted.float() - target.float()).square().flatten(1).mean(dim=1)


def transport_loss(
    network: Stage2Network, data: Tensor, labels: Tensor, draws: TrainingDraws, config: TransportConfig
) -> TransportLoss:
    """Returns the loss of a batch.

    Args:
        network: Predicts velocities.
        data: Normalised latents, [B, C, H, W], on the network's device.
        labels: Classes, int64 [B].
        draws: Times, noise and dropped labels, e.g. of `training_draws`.
        config: Distribution of times.

    Raises:
        ConfigError: The latents do not fit the network, or their shift would be below 1.
    """
    times = times_from_uniforms(draws.uniforms, config, config.shift_of(data.shape[1:])).to(data.device)
    noise, drop = draws.noise.to(data.device, data.dtype), draws.drop.to(data.device)
    # A network without a null label has nothing to drop to; where no label is dropped it is not asked for.
    predicted = network(interpolate(data, noise, times), times, labels, drop=drop if bool(draws.drop.any()) else None)
    per_image = velocity_loss(predicted, velocity(data, noise))
    return TransportLoss(loss=per_image.mean(), per_image=per_image, times=times)
