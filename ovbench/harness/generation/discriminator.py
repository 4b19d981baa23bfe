"""The discriminator of RAE's first stage: small convolutional heads on a frozen DINO, under the official key names.

Source: github.com/bytetriper/RAE, src/disc/dinodisc.py (the design is StyleGAN-T's, arXiv 2301.09515, section 3.2).
Only the heads are trained. In the decoder's step they are frozen: `heads_frozen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ovbench.encoders.modeling.weights_file import check_finite, refuse_misfit
from ovbench.harness.generation.decoder_config import DiscriminatorConfig
from ovbench.harness.generation.dino import FrozenDino

_GROUPS = 32  # of `gn`
_OWN = "heads."


class LocalNorm(nn.Module):
    """Standardises each channel of each picture over its tokens, in float32, with an affine behind: [B, C, N].

    The reference calls it "bn": batch normalisation over a virtual batch of one picture.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (x - mean) / sqrt(var + eps) * weight + bias; the variance is the population's."""
        wide = x.float()
        var, mean = torch.var_mean(wide, dim=2, correction=0, keepdim=True)
        return (wide - mean) / (var + self.eps).sqrt() * self.weight[:, None] + self.bias[:, None]


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.fn = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.fn(x) + x) / 2**0.5


def _convolution(config: DiscriminatorConfig, outputs: int, kernel: int) -> nn.Module:
    convolution = nn.Conv1d(
        config.dino.width, outputs, kernel, padding=kernel // 2, padding_mode="circular" if kernel > 1 else "zeros"
    )
    return spectral_norm(convolution, n_power_iterations=1, eps=1e-12) if config.spectral_norm else convolution


def _norm(config: DiscriminatorConfig) -> nn.Module:
    width = config.dino.width
    if config.norm == "gn":
        return nn.GroupNorm(_GROUPS, width, eps=config.norm_eps)
    if config.norm == "sbn":
        # One process has no others to ask; a trainer of several converts it: SyncBatchNorm.convert_sync_batchnorm.
        return nn.BatchNorm1d(width, eps=config.norm_eps)
    return LocalNorm(width, config.norm_eps)


def _block(config: DiscriminatorConfig, kernel: int) -> nn.Sequential:
    return nn.Sequential(_convolution(config, config.dino.width, kernel), _norm(config), nn.LeakyReLU(0.2))


def _head(config: DiscriminatorConfig) -> nn.Sequential:
    return nn.Sequential(_block(config, 1), _Residual(_block(config, config.kernel)), _convolution(config, 1, 1))


class Discriminator(nn.Module):
    """Pictures in [-1, 1] → logits of every head and token.

    Contract: each call in train mode makes one power iteration per convolution (`weight_u` and `weight_v` move); in
    eval mode nothing moves.

    Args:
        dino: The frozen backbone.
        config: Heads; its `dino` must be the backbone's.
    """

    def __init__(self, dino: FrozenDino, config: DiscriminatorConfig) -> None:
        super().__init__()
        assert dino.config == config.dino, "the heads are built for another backbone"
        self.config = config
        self.dino = dino
        self.heads = nn.ModuleList(_head(config) for _ in range(config.num_heads))

    def activations(self, images_pm1: Tensor) -> list[Tensor]:
        """Returns what the heads read, each [B, width, N]: of the last block, then of each tap in ascending order."""
        return self.dino(images_pm1, (self.config.dino.depth - 1, *self.config.taps))

    def forward(self, images_pm1: Tensor) -> Tensor:
        """Returns logits, [B, 3, H, W] in [-1, 1] → [B, heads * N]; positive means real."""
        found = [head(x).flatten(1) for head, x in zip(self.heads, self.activations(images_pm1), strict=True)]
        return torch.cat(found, dim=1)

    @contextmanager
    def heads_frozen(self) -> Iterator[None]:
        """Within it the heads are in eval mode and take no gradients, as in the decoder's step; then as before."""
        training = self.heads.training
        wanted = [(parameter, parameter.requires_grad) for parameter in self.heads.parameters()]
        self.heads.eval().requires_grad_(False)
        try:
            yield
        finally:
            self.heads.train(training)
            for parameter, takes_gradients in wanted:
                parameter.requires_grad_(takes_gradients)

    def head_state(self) -> dict[str, Tensor]:
        """Returns the trained part under the official names, such as `heads.0.0.0.weight_orig`."""
        return {f"{_OWN}{key}": value for key, value in self.heads.state_dict().items()}

    def load_head_state(self, state: Mapping[str, Tensor], *, where: str) -> None:
        """Loads what `head_state` returned, or the `disc` of a training checkpoint of the reference, strictly.

        Keys of a backbone (`dino.…`, `dino_proxy.…`) are left out: it is frozen and has a file of its own.

        Args:
            state: Tensors by name.
            where: The file, for messages.

        Raises:
            DataError: Tensors are missing, unused, of another shape or not finite.
        """
        own = {key.removeprefix("module."): value for key, value in state.items()}
        own = {key: value for key, value in own.items() if not key.startswith(("dino.", "dino_proxy."))}
        expected = self.head_state()
        refuse_misfit(
            {
                "missing": sorted(set(expected) - set(own)),
                "unexpected": sorted(set(own) - set(expected)),
                "wrong shape": [
                    key for key in sorted(set(own) & set(expected)) if own[key].shape != expected[key].shape
                ],
            },
            where=where,
        )
        check_finite(own, where=where)
        self.heads.load_state_dict({key.removeprefix(_OWN): value for key, value in own.items()})
