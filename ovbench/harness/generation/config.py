"""Architectures of the diffusion transformers on latents, in the words of their official configurations. Data only.

Source: arXiv 2510.11690 (RAE), sections 4.1 and 5; github.com/bytetriper/RAE, src/stage2/models/lightningDiT.py and
DDT.py. Nothing here says how a network is trained or sampled: that is `flow_config.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, suggest

TIME_FREQUENCIES = 256  # of the Fourier features of t; as many sines as cosines


def _whole(name: str, value: object, where: str, *, low: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} must be a whole number from {low}, got {value!r}", where=where)


def _check_common(config: LightningDiTConfig | DiTDHConfig, where: str) -> None:
    for name in ("input_size", "patch_size", "in_channels", "num_classes"):
        _whole(name, getattr(config, name), where)
    for field in fields(config):
        if field.type == "bool" and not isinstance(getattr(config, field.name), bool):
            raise ConfigError(f"{field.name} must be true or false, got {getattr(config, field.name)!r}", where=where)
    for name, high in (("mlp_ratio", math.inf), ("class_dropout_prob", 1.0), ("label_init_std", math.inf)):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < high:
            raise ConfigError(f"{name} must be a number in [0, {high:g}), got {value!r}", where=where)
    if config.input_size % config.patch_size:
        raise ConfigError(
            f"{config.input_size} cells along a side are no whole number of patches of {config.patch_size}", where=where
        )
    if config.wo_shift:
        raise ConfigError(
            "wo_shift=true is not supported: the reference fails with it, so it defines no network",
            where=where,
            fix="set wo_shift to false, as in all released models",
        )


def _check_width(config: LightningDiTConfig | DiTDHConfig, width: int, heads: int, where: str) -> None:
    if width % heads:
        raise ConfigError(f"width {width} is not a multiple of {heads} heads", where=where)
    if config.use_rope and (width // heads) % 4:
        raise ConfigError(
            f"width {width} in {heads} heads gives {width // heads} channels a head, and rotary positions in two "
            "dimensions need a multiple of 4",
            where=where,
        )
    if mlp_width(width, config.mlp_ratio, swiglu=config.use_swiglu) < 1:
        raise ConfigError(f"mlp_ratio {config.mlp_ratio} leaves no hidden layer at width {width}", where=where)


def mlp_width(width: int, mlp_ratio: float, *, swiglu: bool) -> int:
    """Returns the hidden width of an MLP; SwiGLU takes two thirds, rounded down twice as the reference does."""
    hidden = int(width * mlp_ratio)
    return int(2 / 3 * hidden) if swiglu else hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class LightningDiTConfig:
    """LightningDiT (arXiv 2501.01423) as RAE uses it; the defaults are DiT-XL on DINOv2-B latents of 256 px."""

    input_size: int = 16  # latent cells along a side
    patch_size: int = 1  # latent cells along a side of a token
    in_channels: int = 768  # of the latent
    hidden_size: int = 1152  # width of the blocks
    depth: int = 28  # blocks
    num_heads: int = 16
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1  # share of labels that training drops; 0: there is no null label, hence no CFG
    num_classes: int = 1000
    learn_sigma: bool = False  # twice the output channels; the second half is thrown away
    use_qknorm: bool = False  # normed queries and keys
    use_swiglu: bool = True  # else a GELU MLP
    use_rope: bool = True  # rotary positions
    use_rmsnorm: bool = True  # else LayerNorm
    wo_shift: bool = False  # modulation without shifts; refused
    label_init_std: float = 0.02  # of the label embedding at the start of training

    def __post_init__(self) -> None:
        where = "LightningDiT"
        _check_common(self, where)
        for name in ("hidden_size", "depth", "num_heads"):
            _whole(name, getattr(self, name), where)
        _check_width(self, self.hidden_size, self.num_heads, where)
        if self.hidden_size % 4:
            raise ConfigError(f"width {self.hidden_size} is not a multiple of 4 (sin-cos positions)", where=where)

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.input_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of a latent."""
        return self.grid**2

    @property
    def has_null_label(self) -> bool:
        """Whether the label table has a row for "no class", number `num_classes`."""
        return self.class_dropout_prob > 0

    @property
    def out_channels(self) -> int:
        """Channels that the last layer gives per latent cell."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def output_width(self) -> int:
        """Width of the last block, which has to carry the latent's channels (arXiv 2510.11690, section 4.1)."""
        return self.hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTDHConfig:
    """DiT-DH: a backbone and a wide, shallow head (arXiv 2510.11690, section 5); the defaults are DiT-DH-XL.

    Pairs are (backbone, head).
    """

    input_size: int = 16  # latent cells along a side
    patch_size: int = 1  # the reference works with 1 alone
    in_channels: int = 768  # of the latent
    hidden_size: tuple[int, int] = (1152, 2048)  # widths
    depth: tuple[int, int] = (28, 2)  # blocks
    num_heads: tuple[int, int] = (16, 16)
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1  # share of labels that training drops; 0: there is no null label, hence no CFG
    num_classes: int = 1000
    use_qknorm: bool = False  # normed queries and keys
    use_swiglu: bool = True  # else a GELU MLP
    use_rope: bool = True  # rotary positions; the head has no others
    use_rmsnorm: bool = True  # else LayerNorm
    wo_shift: bool = False  # modulation without shifts; refused
    use_pos_embed: bool = True  # sin-cos position table of the backbone
    label_init_std: float = 0.02  # of the label embedding at the start of training

    def __post_init__(self) -> None:
        where = "DiT-DH"
        _check_common(self, where)
        for name in ("hidden_size", "depth", "num_heads"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 2:
                raise ConfigError(f"{name} must be a pair (backbone, head), got {value!r}", where=where)
            for part, number in zip(("backbone", "head"), value, strict=True):
                _whole(f"{name} of the {part}", number, where)
        if self.patch_size != 1:
            raise ConfigError(
                f"patch size {self.patch_size} is not supported: DiT-DH has tokens of one latent cell",
                where=where,
                fix="set patch_size to 1, or take LightningDiT",
            )
        if not self.use_rope:
            raise ConfigError(
                "use_rope=false is not supported: rotary positions are the only ones of DiT-DH's head",
                where=where,
                fix="set use_rope to true, as in all released models",
            )
        for width, heads in zip(self.hidden_size, self.num_heads, strict=True):
            _check_width(self, width, heads, where)
        if self.use_pos_embed and self.hidden_size[0] % 4:
            raise ConfigError(f"width {self.hidden_size[0]} is not a multiple of 4 (sin-cos positions)", where=where)

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.input_size

    @property
    def num_tokens(self) -> int:
        """Tokens of a latent."""
        return self.grid**2

    @property
    def has_null_label(self) -> bool:
        """Whether the label table has a row for "no class", number `num_classes`."""
        return self.class_dropout_prob > 0

    @property
    def out_channels(self) -> int:
        """Channels that the last layer gives per latent cell."""
        return self.in_channels

    @property
    def output_width(self) -> int:
        """Width of the head, which has to carry the latent's channels (arXiv 2510.11690, section 4.1)."""
        return self.hidden_size[1]


Stage2Config: TypeAlias = LightningDiTConfig | DiTDHConfig

_SIZES = ("input_size", "in_channels", "hidden_size", "depth", "num_heads")
_DIT, _DH = LightningDiTConfig(), DiTDHConfig()
# Parameters and forward GFLOP (a multiply-accumulate is 2) on latents of 768 x 16 x 16, by `flops.forward_flops`.
# Only DiT-DH-S and -XL have released configurations; the heads of B and L are those of LightningDiT.
PRESETS: Mapping[str, Stage2Config] = MappingProxyType(
    {
        "dit-s": replace(_DIT, hidden_size=384, depth=12, num_heads=6),  # 33.6M, 12.4
        "dit-b": replace(_DIT, hidden_size=768, depth=12, num_heads=12),  # 131.9M, 46.6
        "dit-l": replace(_DIT, hidden_size=1024, depth=24, num_heads=16),  # 459.9M, 162.2
        "dit-xl": _DIT,  # 677.2M, 238.1
        "dit-dh-s": replace(_DH, hidden_size=(384, 2048), depth=(12, 2), num_heads=(6, 16)),  # 196.5M, 96.9
        "dit-dh-b": replace(_DH, hidden_size=(768, 2048), depth=(12, 2), num_heads=(12, 16)),  # 294.3M, 131.4
        "dit-dh-l": replace(_DH, hidden_size=(1024, 2048), depth=(24, 2), num_heads=(16, 16)),  # 621.7M, 247.1
        "dit-dh-xl": _DH,  # 838.7M, 323.2
    }
)


def preset(name: str, *, where: str = "generation network", **changes: Any) -> Stage2Config:
    """Returns a named architecture, for other latents or labels where `changes` say so.

    Args:
        name: One of `PRESETS`, e.g. `dit-dh-xl`.
        where: The flag or key that holds the name.
        changes: Fields by name, e.g. `in_channels=1024, input_size=16, num_classes=8`.

    Raises:
        ConfigError: No such name or field, or a value that cannot be used.
    """
    base = lookup(PRESETS, name, kind="generation network", where=where)
    _refuse_unknown(type(base), changes, where)
    return replace(base, **changes)


def read_stage2_config(document: Mapping[str, Any], *, where: str) -> Stage2Config:
    """Returns the architecture that the constructor arguments of a reference class describe.

    A list of two widths is DiT-DH, a single width LightningDiT. One number of heads stands for both parts of DiT-DH.

    Args:
        document: Fields by name, as in the reference's YAML below `params`. The five that give the size must be there;
            others that are absent have the values of the released models.
        where: The file, for messages.

    Raises:
        ConfigError: A field is missing or unknown, or a value cannot be used.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
    if missing := [name for name in _SIZES if name not in given]:
        raise ConfigError(
            f"the configuration does not say {', '.join(missing)}",
            where=where,
            fix="give them; hidden_size is one width (LightningDiT) or a list of two (DiT-DH)",
        )
    kind = DiTDHConfig if isinstance(given["hidden_size"], tuple) else LightningDiTConfig
    _refuse_unknown(kind, given, where)
    if kind is DiTDHConfig:
        if isinstance(given.get("num_heads"), int):
            given["num_heads"] = (given["num_heads"],) * 2
        if isinstance(patches := given.get("patch_size"), tuple) and len(set(patches)) == 1:
            given["patch_size"] = patches[0]
    return DiTDHConfig(**given) if kind is DiTDHConfig else LightningDiTConfig(**given)


def _refuse_unknown(kind: type[LightningDiTConfig] | type[DiTDHConfig], given: Mapping[str, Any], where: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in sorted(set(given) - set(known)):
        near = suggest(key, known)
        raise ConfigError(
            f"unknown field '{key}' of {kind.__name__.removesuffix('Config')}",
            where=where,
            fix=f"did you mean '{near}'?" if near else f"known: {', '.join(known)}",
        )
