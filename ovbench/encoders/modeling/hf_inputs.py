"""How pictures become the input of a transformers network: as the variant says, or as the folder's JSON does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import LoadRequest, Normalisation, PreprocessSpec
from ovbench.encoders.preprocess import as_asked, with_size
from ovbench.encoders.processor_json import Processor, read_processor

log = logging.getLogger(__name__)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def preprocessing(
    request: LoadRequest, folder: Path | None, *, default_px: int, published: bool = False
) -> tuple[PreprocessSpec, Normalisation]:
    """Returns how pictures become the input: what the variant states, or the folder's own JSON.

    The variant's own network is used as the variant says, wherever its files are, and a JSON that contradicts it is
    refused; other weights are used as their folder says.

    Args:
        request: What is asked for.
        folder: Where the JSON may be; None without files.
        default_px: The network's own input side.
        published: The folder holds the variant's own network.

    Raises:
        ConfigError: Nobody states it.
        DataError: The JSON cannot be used, or contradicts the variant.
    """
    variant = request.variant
    stated = None
    if variant.input is not None and variant.normalisation is not None:
        stated = variant.input, variant.normalisation
    has_file = folder is not None and any((folder / name).is_file() for name in PROCESSOR_FILES)
    if folder is not None and has_file:
        processor = read_processor(folder)
        spec, normalisation = processor.spec, processor.normalisation
        if stated is not None and published:
            _check_agreement(processor, *stated, request.name, folder)
            spec, normalisation = stated
    elif stated is not None:
        spec, normalisation = stated
        if folder is not None and not published:
            log.warning(
                "%s has no %s: pictures are prepared as for %s, at the network's own size",
                folder,
                PROCESSOR_FILES[0],
                request.name,
            )
            spec = with_size(spec, default_px)
    else:
        raise ConfigError(
            f"nothing says how pictures are prepared for '{request.name}'",
            where=str(folder or request.name),
            fix=f"put the model's {PROCESSOR_FILES[0]} beside its weights",
        )
    return as_asked(spec, request, normalisation.mean), normalisation


def _check_agreement(
    processor: Processor, spec: PreprocessSpec, normalisation: Normalisation, name: str, folder: Path
) -> None:
    """Refuses a processor that prepares pictures otherwise than the variant says; the input side may differ (MAE)."""
    found = processor.spec
    pairs = {
        "resampling": (found.resample, spec.resample),
        "aspect": (found.aspect, spec.aspect),
        "short side over input side": (_zoom(found), _zoom(spec)),
        "normalisation": (processor.normalisation, normalisation),
    }
    for what, (theirs, ours) in pairs.items():
        same = _close(theirs, ours) if isinstance(theirs, Normalisation) else theirs == ours  # type: ignore[arg-type]
        if not same:
            raise DataError(
                f"the folder's {what} is {theirs}, and that of {name} is {ours}",
                where=str(folder),
                fix="get the published files again; for weights of your own use the family hf",
            )


def _zoom(spec: PreprocessSpec) -> float:
    """Returns how much larger than the input the picture is before its centre is cut out."""
    return round((spec.short_side or min(spec.size)) / min(spec.size), 3) if spec.aspect == "crop" else 1.0


def is_published(config: Any, request: LoadRequest) -> bool:
    """Returns whether a configuration is that of the variant's own network, and not of another of its kind."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "num_register_tokens",
    )
    stated = request.variant.architecture
    return bool(stated) and all(getattr(config, name, None) == stated[name] for name in names if name in stated)


def _close(first: Normalisation, second: Normalisation) -> bool:
    pairs = [*zip(first.mean, second.mean, strict=True), *zip(first.std, second.std, strict=True)]
    return all(abs(one - two) < 1e-4 for one, two in pairs)
