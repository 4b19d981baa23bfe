"""CMMD: the maximum mean discrepancy between CLIP embeddings, as its reference code prints it.

Source: Jayasumana et al., Rethinking FID: Towards a Better Evaluation Metric for Image Generation (arXiv:2401.09603),
section 4; reference code: sayakpaul/cmmd-pytorch `distance.py`, the port of google-research/google-research `cmmd/`.
The embeddings are those of the backend `clip-l14-336` (`clip_extractor.py`), which also says how pictures are read.
"""

from __future__ import annotations

import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.kid import gaussian_kernel, mmd2
from ovbench.harness.metrics.moments import Features, check_features, check_same_dim, to_float64

SIGMA = 10.0  # of the Gaussian kernel, in units of normalised embeddings
SCALE = 1000.0


def cmmd(first: Features, second: Features, *, device: torch.device | str | None = None) -> float:
    """Returns 1000 times the biased MMD^2 with k(x, y) = exp(-|x - y|^2 / 200), [n, d] and [m, d].

    Rows are scaled to length 1 first. Biased means that the diagonal is part of the mean, so equal sets give 0 and the
    value is never negative but for rounding. Float64, in blocks. Source: Jayasumana et al. 2024, section 4; the biased
    estimate is Gretton et al. 2012, equation 5.

    Raises:
        DataError: A row is zero, or the sets do not fit together.
    """
    check_same_dim(first, second, "first, second")
    rows = embeddings(first, "first", device), embeddings(second, "second", device)
    return SCALE * mmd2(gaussian_kernel(SIGMA), *rows, biased=True)


def embeddings(features: Features, name: str, device: torch.device | str | None = None) -> torch.Tensor:
    """Returns rows of length 1 in float64, [n, d]; n >= 2.

    Raises:
        DataError: A row is zero, or `name` is no feature matrix.
    """
    check_features(features, name, min_rows=2)
    values = to_float64(features, device)
    lengths = values.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise DataError("an embedding is zero and has no direction", where=name, fix="look for a damaged image")
    return values / lengths
