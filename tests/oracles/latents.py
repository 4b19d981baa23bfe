"""Slow, obvious figures of latents: NumPy loops, written without looking at `ovbench/harness/generation`."""

from __future__ import annotations

import numpy as np


def mean_and_var(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel and place over pictures, [B, C, h, w], two passes in float64, n in the denominator."""
    rows = [np.asarray(latent, dtype=np.float64) for latent in latents]
    mean = sum(rows) / len(rows)
    var = sum((row - mean) ** 2 for row in rows) / len(rows)
    return np.asarray(mean), np.asarray(var)


def channel_scale(latents: np.ndarray) -> np.ndarray:
    result = []
    for channel in range(latents.shape[1]):
        values = [float(v) for v in np.asarray(latents[:, channel], dtype=np.float64).ravel()]
        middle = sum(values) / len(values)
        result.append((sum((v - middle) ** 2 for v in values) / len(values)) ** 0.5)
    return np.array(result)


def effective_rank(covariance: np.ndarray) -> float:
    values = np.linalg.svd(np.asarray(covariance, dtype=np.float64), compute_uv=False)  # = eigenvalues: it is symmetric
    total = sum(values)
    entropy = 0.0
    for value in values:
        share = value / total
        if share > 0:
            entropy -= share * np.log(share)
    return float(np.exp(entropy))
