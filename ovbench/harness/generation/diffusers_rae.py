"""RAEs in diffusers' layout (`AutoencoderRAE`: config.json and safetensors): read, and written for others to read.

diffusers itself is not needed. Checked against its version 0.42.1, whose class departs from RAE in two ways:

1. It divides latents by std + 1e-5, where RAE divides by sqrt(var + 1e-5); converted files hold std = sqrt(var + 1e-5).
2. It builds the decoder's position table itself, rescaled to 16 x 16 tokens, and ignores the one in the file.

So a folder has more than one meaning, and a `Reading` says which is taken:

| reading | latents are divided by | position table |
|---|---|---|
| `converter` | std | the file's; without one RAE's |
| `diffusers` | std + 1e-5 | diffusers' |
| `ovbench` | std + 1e-5 | the file's |
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_write_text, make_dir
from ovbench._base.names import unknown
from ovbench.encoders.base import Encoder, Normalisation
from ovbench.encoders.modeling.sources import find_file, read_state
from ovbench.encoders.modeling.weights_file import check_finite, read_tensors, refuse_misfit
from ovbench.encoders.preprocess import IMAGENET
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.generation.decoder import ViTDecoder, sincos_positions
from ovbench.harness.generation.decoder_weights import decoder_of
from ovbench.harness.generation.diffusers_layout import (
    DECODER_EPS,
    DEFAULTS,
    TOWERS,
    VERSION,
    WEIGHTS,
    decoder_config_of,
    diffusers_key,
    official_key,
    read_config,
    tower_config,
)
from ovbench.harness.generation.latent_stats import LatentStats, latent_fingerprint
from ovbench.harness.generation.rae import RAE

log = logging.getLogger(__name__)
Reading = Literal["converter", "diffusers", "ovbench"]
_EPS = 1e-5  # that diffusers adds to a standard deviation
_BASE_GRID = 16  # that its position table is rescaled to
_BUFFERS = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedRAE:
    """An `AutoencoderRAE` folder, taken apart."""

    decoder: ViTDecoder  # frozen
    encoder_type: str  # dinov2, siglip2 or mae
    encoder_tensors: Mapping[str, Tensor] = field(repr=False)  # by transformers' names; the final norm has no affine
    normalisation: Normalisation  # of pixels in [0, 1]
    shift: Tensor = field(repr=False)  # float64 [C, h, w]: latents are (z - shift) / scale
    scale: Tensor = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)  # config.json with defaults filled in, but for the statistics
    reading: Reading

    def write_encoder(self, folder: Path) -> str:
        """Writes the encoder in transformers' layout and returns the spec that loads it: `dinov2/base-reg:FOLDER`.

        The final norm gets an affine of 1 and 0, which is what RAE's latents have.
        """
        tower, width = TOWERS[self.encoder_type], int(self.config["encoder_hidden_size"])
        tensors = {key: value.contiguous() for key, value in self.encoder_tensors.items()}
        prefix = "vision_model." if any(key.startswith("vision_model.") for key in tensors) else ""
        tensors[f"{prefix}{tower.final_norm}.weight"] = torch.ones(width)
        tensors[f"{prefix}{tower.final_norm}.bias"] = torch.zeros(width)
        side = int(self.config["encoder_input_size"])
        processor = {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255, "resample": 3,
            "image_mean": list(self.normalisation.mean), "image_std": list(self.normalisation.std),
            "image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side},
        }  # fmt: skip
        make_dir(folder)
        save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
        atomic_write_text(folder / "preprocessor_config.json", json.dumps(processor, indent=2))
        atomic_write_text(folder / "config.json", json.dumps(tower_config(self.encoder_type, self.config), indent=2))
        return f"{tower.spec}:{folder}"

    def stats_for(self, encoder: Encoder) -> LatentStats:
        """Returns the folder's statistics, bound to an encoder."""
        return LatentStats(
            mean=self.shift,
            var=self.scale.square(),
            eps=0.0,
            encoder=latent_fingerprint(encoder),
            provenance={"kind": "AutoencoderRAE folder", "reading": self.reading, "binding": "stated by the user"},
        )

    def rae(self, encoder: Encoder) -> RAE:
        """Returns the whole autoencoder on an encoder of ovbench: the one of `write_encoder`, or the released one.

        Raises:
            ConfigError: The encoder normalises pixels otherwise, or its latents have another shape.
        """
        info = encoder.info
        ours, theirs = torch.tensor([info.mean, info.std]), torch.tensor(self.normalisation)
        if not torch.allclose(ours, theirs, rtol=0.0, atol=1e-6):
            raise ConfigError(
                f"'{info.name}' normalises pixels by {info.mean}, {info.std}, and the autoencoder by "
                f"{self.normalisation.mean}, {self.normalisation.std}",
                where="--encoder",
                fix="use the encoder of the folder: ImportedRAE.write_encoder",
            )
        return RAE(encoder, self.decoder, self.stats_for(encoder))


def import_folder(folder: Path, *, reading: Reading | None = None) -> ImportedRAE:
    """Returns the autoencoder of a folder in diffusers' layout, loaded strictly.

    Args:
        folder: Holds `config.json` and `diffusion_pytorch_model.safetensors` (or `.bin`, whose code is never run).
        reading: What the numbers mean, see the top of this file; None: `ovbench` for a folder that `export_folder`
            wrote, else `converter`, which all folders on the hub are of.

    Raises:
        DataError: Files are missing or damaged, or are of another class or size.
        ConfigError: There is no such reading.
    """
    if reading is not None and reading not in get_args(Reading):
        raise unknown("reading", str(reading), get_args(Reading), where="reading")
    config = read_config(folder)
    path = find_file(folder, WEIGHTS)
    written_by_us = path.suffix == ".safetensors" and "ovbench" in read_tensors(path)[1]
    taken: Reading = reading or ("ovbench" if written_by_us else "converter")
    state = read_state(path)
    encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    tensors = {official_key(key): value for key, value in state.items() if key.startswith("decoder.")}
    known = ("encoder.", "decoder.")
    refuse_misfit(
        {"unexpected": [key for key in state if not key.startswith(known) and key not in _BUFFERS]}, where=str(path)
    )
    check_finite(state, where=str(path))
    architecture = decoder_config_of(config, where=str(folder / "config.json"))
    stored = tensors.pop("decoder_pos_embed", None)
    if taken == "diffusers":
        positions = sincos_positions(architecture.width, architecture.grid, divisor=architecture.grid / _BASE_GRID)
    else:
        positions = sincos_positions(architecture.width, architecture.grid) if stored is None else stored
    decoder = decoder_of({**tensors, "decoder_pos_embed": positions}, architecture, where=str(path))
    shape = (architecture.latent_dim, architecture.grid, architecture.grid)
    mean = _expanded(state.get("_latents_mean"), config["latents_mean"], 0.0, shape, str(path))
    std = _expanded(state.get("_latents_std"), config["latents_std"], 1.0, shape, str(path))
    # diffusers multiplies normalised latents by its scaling factor.
    scale = (std if taken == "converter" else std + _EPS) / float(config["scaling_factor"])
    if not bool((scale > 0.0).all()):
        raise DataError("the standard deviations of the latents are not all positive", where=str(path))
    return ImportedRAE(
        decoder=decoder,
        encoder_type=config["encoder_type"],
        encoder_tensors=encoder,
        normalisation=Normalisation(
            _triple(state.get("encoder_mean"), config["encoder_norm_mean"], IMAGENET.mean, str(path)),
            _triple(state.get("encoder_std"), config["encoder_norm_std"], IMAGENET.std, str(path)),
        ),
        shift=mean,
        scale=scale,
        config={key: value for key, value in config.items() if key not in ("latents_mean", "latents_std")},
        reading=taken,
    )


def export_folder(folder: Path, rae: RAE, *, noise_tau: float = 0.0) -> None:
    """Writes an autoencoder so that diffusers' `AutoencoderRAE.from_pretrained` decodes as `RAE.decode_unclamped` does.

    The encoder's keys are those of the installed transformers, as diffusers itself would write them. The position table
    is written although diffusers ignores it; where it would build another one, a warning says so.

    Args:
        folder: Made where it is not there; files of the same names are replaced.
        rae: The autoencoder, with an encoder that diffusers knows, in float32.
        noise_tau: Noise that the decoder was trained with, for the configuration.

    Raises:
        ConfigError: diffusers' class cannot hold this encoder or decoder; the message says why.
    """
    kind, encoder = _exportable(rae)
    assert rae.decoder is not None
    decoder, info = rae.decoder.config, rae.encoder.info
    scale = torch.ones(1, dtype=torch.float64) if rae.stats is None else rae.stats.scale().double()
    shift = torch.zeros(1, dtype=torch.float64) if rae.stats is None else rae.stats.shift().double()
    mean, std = shift.float(), (scale - _EPS).float()
    config = {
        **DEFAULTS,
        "_class_name": "AutoencoderRAE",
        "_diffusers_version": VERSION,
        "encoder_type": kind,
        "encoder_hidden_size": info.dim,
        "encoder_patch_size": info.input.size[0] // info.grid[0],
        "encoder_num_hidden_layers": info.depth,
        "encoder_input_size": info.input.size[0],
        "encoder_norm_mean": list(info.mean),
        "encoder_norm_std": list(info.std),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.num_heads,
        "decoder_intermediate_size": decoder.mlp_width,
        "patch_size": decoder.patch_px,
        "image_size": decoder.output_px,
        "latents_mean": mean.tolist(),
        "latents_std": std.tolist(),
        "noise_tau": noise_tau,
    }
    theirs = sincos_positions(decoder.width, decoder.grid, divisor=decoder.grid / _BASE_GRID)
    if not torch.allclose(rae.decoder.decoder_pos_embed.detach().cpu(), theirs, rtol=0.0, atol=1e-5):
        log.warning(
            "diffusers %s will decode %s otherwise: it ignores the position table of the file and builds its own",
            VERSION,
            folder,
        )
    tensors = {f"decoder.{diffusers_key(key)}": value for key, value in rae.decoder.state_dict().items()}
    tensors |= {f"encoder.{key}": value for key, value in encoder.items()}
    tensors |= {
        "encoder_mean": torch.tensor(info.mean).view(1, 3, 1, 1),
        "encoder_std": torch.tensor(info.std).view(1, 3, 1, 1),
        "_latents_mean": mean,
        "_latents_std": std,
    }
    make_dir(folder)
    save_tensors(folder / WEIGHTS[0], tensors, {"format": "pt", "ovbench": "AutoencoderRAE, reading: ovbench"})
    atomic_write_text(folder / "config.json", json.dumps(config, sort_keys=True))


def _expanded(stored: Tensor | None, listed: Any, default: float, shape: tuple[int, int, int], where: str) -> Tensor:
    """Returns a statistic of the file (else of the configuration, else the default) as float64 [C, h, w]."""
    if stored is None:
        stored = torch.tensor(default if listed is None else listed)
    try:
        return stored.double().expand(shape).clone()
    except RuntimeError as error:
        raise DataError(
            f"the statistics are {list(stored.shape)}, and the latents {list(shape)}", where=where
        ) from error


def _triple(
    stored: Tensor | None, listed: Any, default: tuple[float, float, float], where: str
) -> tuple[float, float, float]:
    values = listed if stored is None else stored.flatten().tolist()
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != 3:
        raise DataError(f"the encoder's normalisation has not three channels: {values}", where=where)
    red, green, blue = (round(float(value), 6) for value in values)  # float32 in the file
    return red, green, blue


def _exportable(rae: RAE) -> tuple[str, dict[str, Tensor]]:
    """Returns the encoder's kind and its tensors without the final norm's affine.

    Raises:
        ConfigError: diffusers' class cannot hold the encoder or the decoder.
    """
    info, model = rae.encoder.info, getattr(rae.encoder, "model", None)
    kinds = [kind for kind, tower in TOWERS.items() if tower.exported and type(model).__name__ == tower.exported]
    fault = ""
    if rae.decoder is None:
        fault = "the decoder is the encoder's own"
    elif not kinds or model is None:
        fault = f"it holds DINOv2 with registers and MAE, not '{info.name}'"
    elif info.dtype != "float32":
        fault = f"the encoder is in {info.dtype}"
    elif rae.decoder.config.eps != DECODER_EPS:
        fault = f"its LayerNorms have eps {DECODER_EPS}, and these {rae.decoder.config.eps}"
    elif info.grid != (rae.decoder.config.grid, rae.decoder.config.grid):
        fault = f"the decoder's grid is {rae.decoder.config.grid} and the encoder's {info.grid[0]} x {info.grid[1]}"
    else:
        patch = info.input.size[0] // info.grid[0]
        fields = {
            "encoder_hidden_size": info.dim, "encoder_num_hidden_layers": info.depth, "encoder_patch_size": patch,
        }  # fmt: skip
        wanted = {key: value for key, value in tower_config(kinds[0], fields).items() if key != "model_type"}
        other = [name for name, value in wanted.items() if getattr(model.config, name) != value]
        if other:
            name = other[0]
            fault = f"its {kinds[0]} has {name} {wanted[name]}, and this one {getattr(model.config, name)}"
        elif info.input.size != (info.grid[0] * patch, info.grid[0] * patch):
            fault = f"the input of {info.input.size[0]} pixels is no multiple of the patch of {patch}"
    if fault:
        raise ConfigError(f"diffusers' AutoencoderRAE cannot hold this autoencoder: {fault}", where="export")
    assert model is not None
    norm = f"{TOWERS[kinds[0]].final_norm}."
    return kinds[0], {key: value for key, value in model.state_dict().items() if not key.startswith(norm)}
