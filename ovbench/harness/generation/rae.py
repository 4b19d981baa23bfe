"""A representation autoencoder: frozen encoder, latent statistics, and a decoder, as one map from pictures to latents.

Source: github.com/bytetriper/RAE, src/stage1/rae.py; arXiv 2510.11690, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.generation.decoder import ViTDecoder, unpatchify
from ovbench.harness.generation.decoder_config import DecoderKind
from ovbench.harness.generation.latent_stats import LatentStats
from ovbench.harness.metrics.quantise import Quantise, quantise_01


class _Decodes(Protocol):
    def decode(self, latents: Tensor) -> Tensor: ...


class RAE(nn.Module):
    """Pictures ↔ latents of a frozen encoder.

    The decoder is the only submodule: the encoder has weights of its own and is never part of a checkpoint.

    Args:
        encoder: The frozen encoder.
        decoder: A `ViTDecoder` (`decoder: rae`), or `native`: the encoder's own, which VAEs have.
        stats: Statistics of its latents; None: latents are used as they are.
        tap: Layer and norm of the latents; None: the encoder's own choice.

    Raises:
        ConfigError: The decoder reads another width, the statistics are of another encoder, or there is no native
            decoder, or not for this tap.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: ViTDecoder | Literal["native"],
        stats: LatentStats | None = None,
        *,
        tap: Tap | None = None,
    ) -> None:
        super().__init__()
        info = encoder.info
        if isinstance(decoder, str):
            if decoder != "native":
                raise unknown("decoder", decoder, ("native",), where="decoder")
            if not info.supports_decode:
                raise ConfigError(
                    f"'{info.name}' has no decoder of its own",
                    where="decoder: native",
                    fix="train one: decoder: rae",
                )
            if tap is not None and replace(tap, prefix=False) != info.latent_tap:
                raise ConfigError(
                    f"the decoder of '{info.name}' reads its latents at {info.latent_tap}, not at {tap}",
                    where="decoder: native",
                    fix="leave the tap out, or train a decoder: decoder: rae",
                )
        elif decoder.config.latent_dim != info.dim:
            raise ConfigError(
                f"the decoder reads latents of width {decoder.config.latent_dim}, and those of '{info.name}' have "
                f"{info.dim}",
                where="decoder",
                fix="use a decoder that was trained on this encoder",
            )
        elif decoder.config.num_channels != 3:
            raise ConfigError(f"the decoder makes {decoder.config.num_channels} channels, not RGB", where="decoder")
        if stats is not None:
            stats.check_encoder(encoder, tap)
        object.__setattr__(self, "_encoder", encoder)  # not a submodule
        self.decoder = None if isinstance(decoder, str) else decoder
        self._stats, self._tap = stats, tap
        self._mean = torch.tensor(info.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(info.std).view(1, 3, 1, 1)

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder."""
        return cast(Encoder, self.__dict__["_encoder"])

    @property
    def stats(self) -> LatentStats | None:
        """What latents are normalised by."""
        return self._stats

    @property
    def kind(self) -> DecoderKind:
        """`rae`, or `native` for the encoder's own decoder."""
        return "native" if self.decoder is None else "rae"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return (self.encoder.info.dim, *self.encoder.info.grid)

    @property
    def output_px(self) -> tuple[int, int]:
        """(height, width) of the pictures that `decode` makes."""
        if self.decoder is None:
            return self.encoder.info.input.size
        return (self.decoder.config.output_px, self.decoder.config.output_px)

    @torch.no_grad()
    def raw_latents(self, images_01: Tensor) -> Tensor:
        """Returns latents before statistics, float32 [B, C, h, w]: what a decoder is trained on.

        Args:
            images_01: float32 [B, 3, H, W] in [0, 1]; another size than the encoder's is resized as RAE does.
        """
        return self.encoder.latents(images_01, self._tap, resize=True)

    def encode(self, images_01: Tensor) -> Tensor:
        """Returns normalised latents, float32 [B, C, h, w], of [B, 3, H, W] in [0, 1]; no noise is added."""
        latents = self.raw_latents(images_01)
        stats = self._stats_on(latents.device)
        return latents if stats is None else stats.normalise(latents)

    def pixels(self, raw_latents: Tensor) -> Tensor:
        """Returns pictures, float32 [B, 3, H, W], about [0, 1] and not clamped, of latents before statistics.

        Gradients reach the decoder (and the latents) unless it is the encoder's own.
        """
        if self.decoder is None:
            return cast(_Decodes, self.encoder).decode(raw_latents)
        rows = raw_latents.flatten(2).transpose(1, 2)  # [B, N, C]
        images = unpatchify(self.decoder(rows), self.decoder.config.patch_px, self.decoder.config.num_channels).float()
        return images * self._std.to(images) + self._mean.to(images)

    @torch.no_grad()
    def decode_unclamped(self, latents: Tensor) -> Tensor:
        """Returns pictures [B, 3, H, W], about [0, 1], of normalised latents [B, C, h, w]: the reference's `decode`."""
        stats = self._stats_on(latents.device)
        return self.pixels(latents if stats is None else stats.denormalise(latents))

    def _stats_on(self, device: torch.device) -> LatentStats | None:
        """Returns the statistics on a device; they move once."""
        if self._stats is not None and self._stats.device != device:
            self._stats = self._stats.to(device)
        return self._stats

    def decode(self, latents: Tensor) -> Tensor:
        """Returns pictures [B, 3, H, W] in [0, 1] of normalised latents [B, C, h, w]."""
        return self.decode_unclamped(latents).clamp(0.0, 1.0)

    def decode_u8(self, latents: Tensor, how: Quantise = "truncate") -> Tensor:
        """Returns pictures as they are scored, uint8 [B, H, W, 3]; RAE's programs truncate.

        Args:
            latents: Normalised, [B, C, h, w].
            how: See `quantise_01`.

        Raises:
            DataError: The decoder gave NaN.
        """
        return quantise_01(self.decode(latents), how).permute(0, 2, 3, 1).contiguous()

    def reconstruct_u8(self, images_01: Tensor, how: Quantise = "truncate") -> Tensor:
        """Returns decode(encode(x)) as it is scored, uint8 [B, H, W, 3], of [B, 3, H, W] in [0, 1]."""
        return self.decode_u8(self.encode(images_01), how)
