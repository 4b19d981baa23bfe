"""What a network of the FID family is to everything around it; the networks themselves are in `extractors`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.metrics.inception_weights import Precision, full_float32

CMMD_TITLE = "FD-CLIP-L14-336"  # of a Fréchet distance in the space of CMMD


# Of all that turns a picture into features: raised when any of it is mended, so that nothing old is found in a cache.
EXTRACTION_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorInfo:
    """All that decides a feature, and the name that a distance between such features may carry."""

    name: str  # of the backend
    network: str
    trained: bool  # False: seeded, untrained weights
    weights_sha256: str
    resize: str  # key of RESIZES
    quantisation: str  # whether the resized picture is rounded
    normalisation: str  # what is done to grey levels x
    size_px: int  # side that the network reads
    layers: Mapping[str, int]  # layer → width
    pool: str  # the layer of the Fréchet distance
    spatial: str | None = None  # the layer of sFID
    logits: str | None = None  # the layer of the inception score
    precision: Precision = "float32"
    value_change: float = 0.0  # of the pooled features, relative, against the network as it was published
    title: str  # FID, or FD-<network>

    @property
    def dim(self) -> int:
        """Width of the pooled features."""
        return self.layers[self.pool]

    def metric_name(self, metric: str = "FID") -> str:
        """Returns the name that a score may carry: `FID`, `sFID`, `IS`, `KID` for the 2015 weights alone.

        For any other network a Fréchet distance is `FD-<network>` (`FD-infinity-<network>`), and other metrics are
        `<metric>-<network>`. `CMMD` is the score of the published CLIP ViT-L/14-336 alone, and `CMMD-<network>` of any
        other.
        """
        network = "Inception" if self.title == "FID" else self.title.removeprefix("FD-")
        if metric == "CMMD":
            return metric if self.title == CMMD_TITLE else f"CMMD-{network}"
        if self.title == "FID":
            return metric
        return f"{metric.replace('FID', 'FD', 1) if metric.startswith('FID') else metric}-{network}"

    @property
    def convention(self) -> dict[str, Any]:
        """What must be equal for two sets of statistics to be comparable."""
        return {
            "network": self.network,
            "weights_sha256": self.weights_sha256,
            "resize": self.resize,
            "quantisation": self.quantisation,
            "normalisation": self.normalisation,
            "precision": self.precision,
        }

    def fingerprint(self) -> str:
        """Returns sha256 of all that can change a feature: the key of cached statistics."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("value_change", "title")}
        return fingerprint({**fields, "version": EXTRACTION_VERSION})


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A backend that is ready to run."""

    info: ExtractorInfo
    device: torch.device
    run: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)  # uint8 [B, 3, H, W] on the device → layers
    fixed_batch: bool = False  # the last, shorter batch is filled up, so that nothing is compiled twice
    concurrent: bool = True  # False: one pass at a time. Encoders read their blocks by hooks, which passes would share.
    _largest: list[int] = field(default_factory=list, repr=False)

    def extract(self, images_u8: np.ndarray | Tensor) -> dict[str, Tensor]:
        """Returns layer → float32 [B, D] on the device, of uint8 pictures [B, H, W, 3].

        Raises:
            ConfigError: The batch is no uint8 [B, H, W, 3], or is empty.
        """
        images = torch.from_numpy(np.ascontiguousarray(images_u8)) if isinstance(images_u8, np.ndarray) else images_u8
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise ConfigError(
                f"pictures must be uint8 [B, H, W, 3], got {str(images.dtype).removeprefix('torch.')} "
                f"{list(images.shape)}",
                where=f"extractor {self.info.name}",
                fix="quantise first: pictures are scored as they are stored, in 8 bits",
            )
        count = len(images)
        if self.fixed_batch:
            self._largest[:] = [max([count, *self._largest])]
            missing = self._largest[0] - count
            images = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        with torch.inference_mode(), full_float32(), torch.autocast(self.device.type, enabled=False):
            features = self.run(x)
        return {name: value[:count].float() for name, value in features.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorRequest:
    """What `load_extractor` was asked for, checked as far as all backends share it."""

    name: str
    weights: str | None
    device: torch.device
    precision: Precision
    compile: bool
    layers: tuple[str, ...] | None
    fast: bool
    resize: str | None
    centre: float | None

    def refuse_other_forms(self) -> None:
        """Refuses what only a network of several forms has.

        Raises:
            ConfigError: The plain form, or a compiled one, was asked for.
        """
        if not self.fast:
            raise ConfigError(f"'{self.name}' has one form only", where="fast", fix="leave the option out")
        if self.compile:
            raise ConfigError(f"'{self.name}' is not compiled", where="--compile", fix="leave the option out")
