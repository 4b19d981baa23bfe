"""Slow, obvious scores of generated images: NumPy loops, written without looking at `ovbench/harness/metrics`.

Also the golden files of the generation metrics, which all of their tests read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_features() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "metrics_features.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def golden_expected() -> dict[str, Any]:
    return json.loads((GOLDEN / "metrics_expected.json").read_text(encoding="utf-8"))["expected"]


def golden_pairs() -> tuple[np.ndarray, np.ndarray]:
    with np.load(GOLDEN / "metrics_reconstruction.npz", allow_pickle=False) as arrays:
        return arrays["reference"], arrays["reconstruction"]


def golden_reconstruction() -> dict[str, Any]:
    return json.loads((GOLDEN / "metrics_reconstruction.json").read_text(encoding="utf-8"))["expected"]


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(features, dtype=np.float64)
    return rows.mean(axis=0), np.cov(rows, rowvar=False)


def frechet(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """With matrix square roots by eigenvectors, twice."""

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    half = root(sigma1)
    middle = root(half @ sigma2 @ half)
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(middle))


def kid(x: np.ndarray, y: np.ndarray) -> float:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return float((one @ other / len(one) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(x[i], y[j]) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def inception_score(logits: np.ndarray) -> float:
    rows = np.asarray(logits, dtype=np.float64)
    p = np.exp(rows - rows.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    marginal = p.mean(axis=0)
    total = 0.0
    for row in p:
        total += sum(a * np.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0)
    return float(np.exp(total / len(p)))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in y] for a in x])


def manifold(reference: np.ndarray, generated: np.ndarray, k: int, *, strict: bool) -> dict[str, float]:
    """Precision, recall, density and coverage, straight from the definitions."""
    ref_radii = np.sort(_distances(reference, reference), axis=1)[:, k]
    gen_radii = np.sort(_distances(generated, generated), axis=1)[:, k]
    between = _distances(reference, generated)  # [reference, generated]
    in_ref = between < ref_radii[:, None] if strict else between <= ref_radii[:, None]
    in_gen = between < gen_radii[None, :] if strict else between <= gen_radii[None, :]
    return {
        "precision": float(np.mean(in_ref.any(axis=0))),
        "recall": float(np.mean(in_gen.any(axis=1))),
        "density": float(in_ref.sum() / (k * len(generated))),
        "coverage": float(np.mean(in_ref.any(axis=1))),
    }


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))
    x, y = (np.array([row / np.sqrt(np.sum(row**2)) for row in rows]) for rows in (x, y))

    def mean_kernel(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean(np.exp(-(_distances(one, other) ** 2) / 200.0)))

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One uint8 pair [h, w, 3]: an explicit 11 x 11 window at each pixel of each channel, borders reflected."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(x.shape[2]):
        a, b = (np.pad(image[:, :, channel] / 255.0, 5, mode="reflect") for image in (x, y))
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
                mp, mq = np.sum(window * p), np.sum(window * q)
                vp, vq = np.sum(window * (p - mp) ** 2), np.sum(window * (q - mq) ** 2)
                cov = np.sum(window * (p - mp) * (q - mq))
                upper = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                values.append(upper / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))
