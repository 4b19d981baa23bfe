"""Weights and statistics that the user names in place of trainings: opened and checked before anything is computed.

A file is RAE's or our own; a folder is one of diffusers' `AutoencoderRAE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench.encoders.base import Encoder
from ovbench.harness.generation.config import Stage2Config, preset, read_stage2_config
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.decoder_weights import config_of, decoder_of, encoder_of, read_decoder_state
from ovbench.harness.generation.diffusers_rae import ImportedRAE, import_folder
from ovbench.harness.generation.flow_config import GuidanceConfig
from ovbench.harness.generation.latent_stats import LatentStats, latent_fingerprint
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.stats_files import load_released_stats, load_stats

_CONFIGS = (".yaml", ".yml", ".json")


def given_digests(options: GenerationOptions) -> Mapping[str, str]:
    """Returns the digests of weights and statistics that were not made here, by name of their option."""
    names = {"decoder": options.decoder, "stats": options.stats, "dit": options.dit, "guide": options.guide}
    return MappingProxyType({name: _digest(path) for name, path in names.items() if path is not None})


def _digest(path: Path) -> str:
    if not path.is_dir():
        return file_sha256(path)
    return fingerprint({item.name: file_sha256(item) for item in sorted(path.iterdir()) if item.is_file()})


def given_stats(path: Path, encoder: Encoder) -> LatentStats:
    """Returns the statistics of a file or of a diffusers folder, for an encoder.

    Raises:
        DataError: It is missing or damaged, or holds something else.
        ConfigError: It is of another encoder, tap or size.
    """
    if path.is_dir():
        stats = _imported(path, encoder, "--stats").stats_for(encoder)
        stats.check_encoder(encoder)
        return stats
    own = path.suffix in (".safetensors", ".npz")
    try:
        return (load_stats if own else load_released_stats)(path, encoder)
    except (ConfigError, DataError) as error:
        raise type(error)(error.what, where=_at("--stats", path), fix=error.fix) from error


def given_decoder(path: Path, encoder: Encoder, expected: DecoderConfig) -> ViTDecoder:
    """Returns the frozen decoder of a file or of a diffusers folder.

    Its width and depth are its own; it has to read the encoder's latents and to make the protocol's pictures.

    Args:
        path: The file or folder.
        encoder: What it decodes.
        expected: What the protocol would train; its number of heads is taken where the shapes agree.

    Raises:
        DataError: It is missing or damaged, or holds no decoder.
        ConfigError: It is of other latents or pictures.
    """
    where = _at("--decoder", path)
    if path.is_dir():
        decoder = _imported(path, encoder, "--decoder").decoder
        _check_decoder(decoder.config, expected, where)
        return decoder
    state = read_decoder_state(path)
    if (trained_on := encoder_of(path)) and trained_on != latent_fingerprint(encoder):
        raise ConfigError(
            f"the decoder was trained on the latents of another encoder, tap or precision than '{encoder.info.name}'",
            where=where,
            fix="name a decoder that was trained on this encoder",
        )
    shapes = config_of(state.tensors, num_heads=1, where=where)
    known = all(getattr(shapes, name) == getattr(expected, name) for name in ("width", "depth", "mlp_width"))
    config = config_of(state.tensors, num_heads=expected.num_heads if known else None, where=where)
    _check_decoder(config, expected, where)
    return decoder_of(state.tensors, config, where=where)


def _check_decoder(config: DecoderConfig, expected: DecoderConfig, where: str) -> None:
    if config.latent_dim != expected.latent_dim:
        raise ConfigError(
            f"the decoder reads latents of {config.latent_dim} channels, and the encoder's have {expected.latent_dim}",
            where=where,
            fix="name a decoder that was trained on this encoder",
        )
    if config.output_px != expected.output_px or config.num_channels != 3:
        raise ConfigError(
            f"the decoder makes pictures of {config.output_px} pixels, and the protocol's have {expected.output_px}",
            where=where,
            fix="name a decoder of this size, or another protocol",
        )


def _imported(path: Path, encoder: Encoder, flag: str) -> ImportedRAE:
    imported = import_folder(path)
    try:
        imported.rae(encoder)  # refuses another normalisation of pixels
    except ConfigError as error:
        raise ConfigError(error.what, where=_at(flag, path), fix=error.fix) from error
    return imported


def named_network(name: str, flag: str, *, channels: int, grid: int, num_classes: int) -> Stage2Config:
    """Returns the architecture of given weights: a preset for these latents, or a configuration file, which has to fit.

    Args:
        name: A preset, or a YAML or JSON file of constructor arguments; RAE's own files hold them in `stage_2.params`.
        flag: What named it.
        channels: Of the latents as the network reads them.
        grid: Cells along a side.
        num_classes: Of the protocol.

    Raises:
        ConfigError: No such preset, or a configuration of other latents or classes.
        DataError: The file is missing or damaged.
    """
    if not name.endswith(_CONFIGS):
        return preset(name, where=flag, in_channels=channels, input_size=grid, num_classes=num_classes)
    config = read_stage2_config(_document(Path(name), flag), where=_at(flag, Path(name)))
    for field, wanted in (("in_channels", channels), ("input_size", grid), ("num_classes", num_classes)):
        if getattr(config, field) != wanted:
            raise ConfigError(
                f"the network has {field} {getattr(config, field)}, and the run needs {wanted}",
                where=_at(flag, Path(name)),
                fix="name the configuration of a network for this encoder and protocol",
            )
    return config


def _document(path: Path, flag: str) -> Mapping[str, Any]:
    from ovbench.tasks.load import read_yaml

    fix = "name a preset, e.g. dit-dh-xl, or a YAML file of constructor arguments: in_channels, hidden_size, …"
    if not path.is_file():
        raise DataError(f"there is no file '{path}'", where=flag, fix=fix)
    try:
        document: Any = read_yaml(path)
    except OvbenchError as error:
        raise DataError(error.what, where=f"{flag} {error.where}", fix=error.fix or fix) from error
    if isinstance(document, Mapping) and isinstance(document.get("stage_2"), Mapping):
        document = document["stage_2"].get("params")
    if not isinstance(document, Mapping):
        raise DataError(f"'{path.name}' holds no settings by name", where=_at(flag, path), fix=fix)
    return document


def check_guidance_of(config: GuidanceConfig, network: Stage2Config) -> None:
    """Refuses classifier-free guidance of a network that knows no "no class", before it is trained.

    Raises:
        ConfigError: It has no null label.
    """
    if config.kind == "cfg" and not network.has_null_label:
        raise ConfigError(
            "classifier-free guidance needs a network that was trained with dropped labels, and this one has no null "
            "label (class_dropout_prob is 0)",
            where="--guidance",
            fix="use none or auto, or a network with class_dropout_prob above 0",
        )


def _at(flag: str, path: Path) -> str:
    return f"{flag} {path}"
