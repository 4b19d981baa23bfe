"""LPIPS of pairs of uint8 images: the distance between two pictures in the features of VGG16.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv:1801.03924), equation 1,
in the form that RAE and others report: version 0.1, network VGG16. The network and its linear heads are torchmetrics'
(extra `metrics`), which hold the same heads as RAE's file. Conventions: specs/metrics.md §2.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovbench._base.errors import DataError, DependencyError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.lazy import require
from ovbench._base.seeding import numpy_generator
from ovbench.encoders.modeling.frozen import check_device
from ovbench.encoders.modeling.sources import read_state
from ovbench.encoders.modeling.weights_file import check_finite, refuse_misfit
from ovbench.harness.metrics.inception_weights import RANDOM, full_float32, state_sha256
from ovbench.harness.metrics.published_weights import PublishedWeights
from ovbench.harness.metrics.reconstruction import Images, Layout, check_pairs

SHA256_PREFIX = "397923af"
WEIGHTS_FILE = f"vgg16-{SHA256_PREFIX}.pth"
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # of LPIPS 0.1, `vgg.pth`
SMALLEST_PX = 16  # four poolings by two: relu5_3 of a smaller side has no pixel
_URL = "https://download.pytorch.org/models/"
_BATCH = 8  # pairs at once


@dataclass(frozen=True, kw_only=True)
class Lpips:
    """The network, ready to compare pairs; `name` is what its result may be called."""

    name: str  # LPIPS, or LPIPS-untrained
    trained: bool  # False: seeded, untrained VGG16
    weights_sha256: str  # of the VGG16 file; of the tensors where it is untrained
    heads_sha256: str
    device: torch.device
    network: torch.nn.Module = field(repr=False)

    def __call__(self, original: Images, reconstruction: Images, *, layout: Layout = "nhwc") -> NDArray[np.float64]:
        """Returns LPIPS of each pair, [n]; 0 for an identical pair, and larger for a larger difference.

        With y_l the activations of layer l (relu1_2, 2_2, 3_3, 4_3, 5_3) scaled to length 1 along the channels:
        d(x, x0) = sum_l mean_hw w_l . (y_l(x) - y_l(x0))^2, of pictures in [-1, 1]. The network computes in float32.
        A value depends on its own pair alone, up to rounding. Source: the paper's equation 1; torchmetrics'
        `LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True)`; bytetriper/RAE `eval/ref_iqa.py`.

        Args:
            original: uint8 [n, h, w, 3].
            reconstruction: uint8 [n, h, w, 3].
            layout: `nchw` where the channels come second.

        Raises:
            ConfigError: An unknown layout.
            DataError: Images that are not uint8 RGB, are smaller than 16 px a side, or do not pair up.
        """
        first, second = check_pairs(original, reconstruction, layout)
        if first.shape[1] != 3:
            raise DataError(f"LPIPS needs RGB images, got {first.shape[1]} channels", where="original, reconstruction")
        if (smallest := min(first.shape[2:])) < SMALLEST_PX:
            raise DataError(
                f"LPIPS needs images of at least {SMALLEST_PX} px a side, got {smallest}",
                where="original, reconstruction",
            )
        parts: list[Tensor] = []
        with torch.inference_mode(), full_float32(), torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(first), _BATCH):
                x, y = (part[start : start + _BATCH].to(self.device).float() / 255 for part in (first, second))
                # Trap: torchmetrics' own update squeezes, so that a batch of one pair loses its axis.
                parts.append(self.network(x, y, normalize=True).flatten().double().cpu())
        return torch.cat(parts).numpy()

    def distance(self, reconstruction_pm1: Tensor, images_pm1: Tensor) -> Tensor:
        """Returns LPIPS of each pair with gradients, float32 [B], of [B, 3, H, W] in [-1, 1]: a loss, not a score."""
        with torch.autocast(self.device.type, enabled=False):
            return self.network(reconstruction_pm1.float(), images_pm1.float(), normalize=False).reshape(-1)


def _published() -> PublishedWeights:
    return PublishedWeights(
        network="the VGG16 of LPIPS",
        names=(WEIGHTS_FILE,),
        sha256_prefix=SHA256_PREFIX,
        url=_URL,
        option="--lpips-weights",
        else_note="another VGG16 gives other values",
    )


def find_weights(path: str | Path | None = None) -> Path:
    """Returns the file of VGG16; see `PublishedWeights.find`."""
    return _published().find(path)


def load_lpips(weights: str | Path | None = None, *, device: str = "cpu") -> Lpips:
    """Returns LPIPS with torchvision's VGG16 and the published linear heads. Nothing is fetched.

    Args:
        weights: A file; None: see `find_weights`; `random`: a seeded, untrained VGG16, whose result is called
            `LPIPS-untrained`.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        DataError: The file is absent, damaged, or another network's.
        DependencyError: torchmetrics or torchvision is not installed or holds other heads, or the device is not there.
        ConfigError: An unknown device.
    """
    chosen = check_device(device)
    trained, where = str(weights) != RANDOM, RANDOM
    # torchvision first: torchmetrics imports without it, and then lacks the network.
    require("torchvision", extra="metrics", purpose="LPIPS")
    library = require("torchmetrics.functional.image.lpips", extra="metrics", purpose="LPIPS")
    with torch.device("meta"):  # Trap: torchmetrics' own constructor fetches weights; this one only gives the form.
        network = library._NoTrainLpips(net="vgg", pretrained=False, pnet_rand=True)
    network.scaling_layer = library.ScalingLayer()
    wanted = {key: _published_key(key) for key in network.state_dict()}
    shapes = {wanted[key]: tuple(value.shape) for key, value in network.state_dict().items()}
    if trained:
        path = find_weights(weights)
        digest, where = _published().check(path), str(path)
        state = read_state(path)
    else:
        state = _random_state({key: shape for key, shape in shapes.items() if key.startswith("features.")})
        digest = state_sha256(state)
    _fill(network, wanted, shapes, {**state, **_heads(library)}, where)
    return Lpips(
        name="LPIPS" if trained else "LPIPS-untrained",
        trained=trained,
        weights_sha256=digest,
        heads_sha256=HEADS_SHA256,
        device=chosen,
        network=network.to(chosen),
    )


def _published_key(key: str) -> str:
    """Returns the key of the published files: `net.slice2.5.bias` → `features.5.bias`, `lins.0.…` → `lin0.…`."""
    first, rest = key.split(".", 1)
    match first:
        case "net":
            return f"features.{rest.split('.', 1)[1]}"
        case "lins":  # the heads once more, as a list
            number, rest = rest.split(".", 1)
            return f"lin{number}.{rest}"
        case _:
            return key


def _heads(library: Any) -> dict[str, Tensor]:
    """Returns the linear heads that come with torchmetrics, `lin0` to `lin4`, [1, C, 1, 1]."""
    path = Path(library.__file__).parent / "lpips_models" / "vgg.pth"
    if not path.is_file() or file_sha256(path) != HEADS_SHA256:
        raise DependencyError(
            "the installed torchmetrics does not hold the published linear heads of LPIPS 0.1",
            where=str(path),
            fix="run: python -m pip install --force-reinstall torchmetrics==1.9.0",
        )
    return read_state(path)


def _random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Returns seeded, untrained weights of VGG16 (He et al.'s initialisation): for tests, never for a score."""
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        values = numpy_generator(0, "lpips", key).standard_normal(shape)
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.05
        state[key] = torch.from_numpy((values * scale).astype(np.float32))
    return state


def _fill(
    network: torch.nn.Module,
    wanted: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    where: str,
) -> None:
    """Puts the tensors into the network; VGG16's classifier, which LPIPS does not read, may be among them."""
    missing = sorted(set(shapes) - set(state))
    other = [
        f"{key} {list(state[key].shape)} for {list(shape)}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    unknown = sorted(key for key in set(state) - set(shapes) if not key.startswith("classifier."))
    refuse_misfit({"missing": missing, "unexpected": unknown, "wrong shape": other}, where=where)
    tensors = {key: state[name].float() for key, name in wanted.items()}
    check_finite(tensors, where=where)
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
