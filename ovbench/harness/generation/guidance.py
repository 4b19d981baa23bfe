"""Guidance: the velocity of a network moved away from that of a worse one.

Source: arXiv 2207.12598 (classifier-free), 2404.07724 (in an interval of times), 2406.02507 (autoguidance);
github.com/bytetriper/RAE, src/stage2/models/DDT.py (`forward_with_cfg`, `forward_with_autoguidance`). LightningDiT
follows DiT-DH here: the reference's own version takes the interval the other way round and fails in the sampler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import GuidanceConfig
from ovbench.harness.generation.network import Stage2Network

_ROUNDING = 1e-6  # by which a shifted time can pass 1 in float32


def in_interval(t: Tensor, interval: tuple[float, float]) -> Tensor:
    """Returns which times lie in a closed interval, bool of t's shape; compared in t's precision, so ends are in.

    Trap: some shifts take the time 1 to 1.0000001 in float32, which is 1 all the same. Anything further above is not.
    """
    t = torch.where((t > 1.0) & (t <= 1.0 + _ROUNDING), torch.ones_like(t), t)
    return (t >= interval[0]) & (t <= interval[1])


def blend(main: Tensor, guide: Tensor, scale: float) -> Tensor:
    """Returns guide + scale (main - guide), of all channels."""
    return guide + scale * (main - guide)


def check_guidance(config: GuidanceConfig, network: Stage2Network, guide: Stage2Network | None) -> None:
    """Refuses guidance that the networks cannot give.

    Raises:
        ConfigError: A guide is missing, of no use, or made for other latents or labels; or there is no null label.
    """
    if config.kind == "auto" and guide is None:
        raise ConfigError(
            "autoguidance needs a second network", where="guidance", fix="name the weights of a weaker network"
        )
    if config.kind != "auto" and guide is not None:
        raise ConfigError(
            f"a second network has no effect with guidance '{config.kind}'", where="guidance", fix="set kind to auto"
        )
    if config.kind == "cfg":
        _ = network.null_label  # raises where there is none
    if guide is not None:
        for name in ("input_size", "in_channels", "num_classes"):
            ours, other = getattr(network.config, name), getattr(guide.config, name)
            if ours != other:
                raise ConfigError(
                    f"the guide has {name} {other} and the network {ours}",
                    where="guidance",
                    fix="take a guide that was trained on the same latents and labels",
                )


def guided_velocity(
    network: Stage2Network,
    x: Tensor,
    t: Tensor,
    labels: Tensor,
    config: GuidanceConfig,
    *,
    guide: Stage2Network | None = None,
) -> Tensor:
    """Returns the guided velocity, [B, C, H, W], of images at times of their own.

    Images outside the interval keep the network's velocity. Classifier-free guidance is one call on 2 B images,
    autoguidance one call of each network on B.

    Args:
        network: The network.
        x: Latents, [B, C, H, W].
        t: Times, [B].
        labels: Classes, int64 [B].
        config: What guides, how much and when.
        guide: The weaker network of autoguidance.

    Raises:
        ConfigError: See `check_guidance`.
    """
    check_guidance(config, network, guide)
    if not config.active:
        return network(x, t, labels)
    if config.kind == "auto":
        assert guide is not None  # check_guidance
        main, other = network(x, t, labels), guide(x, t, labels)
    else:
        nulls = torch.full_like(labels, network.null_label)
        main, other = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, nulls])).chunk(2)
    inside = in_interval(t, config.interval).reshape(-1, 1, 1, 1)
    return torch.where(inside, blend(main, other, config.scale), main)
