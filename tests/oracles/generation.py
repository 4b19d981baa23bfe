"""Slow, obvious scores of generated images: NumPy loops, written without looking at `ovbench/harness/metrics`.

Also the golden files of the generation metrics, which all of their tests read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def kid_subsets(x: np.ndarray, y: np.ndarray, draws: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean and population standard deviation over the given rows of both sets."""
    values = np.array([kid(x[rows], y[others]) for rows, others in draws])
    return float(values.sum() / len(values)), float(np.sqrt(((values - values.mean()) ** 2).sum() / len(values)))


def inception_score(logits: np.ndarray) -> float:
    rows = np.asarray(logits, dtype=np.float64)
    p = np.exp(rows - rows.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    marginal = p.mean(axis=0)
    total = 0.0
    for row in p:
        total += sum(a * np.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0)
    return float(np.exp(total / len(p)))


def inception_score_adm(logits: np.ndarray, size: int) -> float:
    """Blocks in file order, the last may be short."""
    blocks = [logits[start : start + size] for start in range(0, len(logits), size)]
    return sum(inception_score(block) for block in blocks) / len(blocks)


def inception_score_tf(logits: np.ndarray, splits: int, seed: int) -> tuple[float, float]:
    """Equal splits of the shuffled rows; mean and population standard deviation."""
    order = np.random.RandomState(seed).permutation(len(logits))
    n = len(logits)
    scores = np.array([inception_score(logits[order[i * n // splits : (i + 1) * n // splits]]) for i in range(splits)])
    return float(scores.mean()), float(np.sqrt(np.mean((scores - scores.mean()) ** 2)))


def frechet_infinity(
    mu: np.ndarray, sigma: np.ndarray, generated: np.ndarray, sizes: list[int], seed: int
) -> tuple[float, float]:
    """Intercept and slope of the distance over 1/n: subsets drawn one after the other, a line by its two sums."""
    generator = np.random.default_rng(seed)
    values = []
    for size in sizes:
        rows = generated[generator.choice(len(generated), size, replace=False)]
        values.append(frechet(mu, sigma, *moments(rows)))
    t = 1 / np.array(sizes, dtype=np.float64)
    slope = float(np.sum((t - t.mean()) * (np.array(values) - np.mean(values))) / np.sum((t - t.mean()) ** 2))
    return float(np.mean(values)) - slope * float(t.mean()), slope


def spatial_rows(maps: np.ndarray) -> np.ndarray:
    """The features of sFID from the maps [n, channels, h, w]: seven channels, and the channel runs fastest."""
    count, _, height, width = maps.shape
    rows = np.zeros((count, height * width * 7))
    for image in range(count):
        position = 0
        for row in range(height):
            for column in range(width):
                for channel in range(7):
                    rows[image, position] = maps[image, channel, row, column]
                    position += 1
    return rows


def tf1_bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """TensorFlow 1's resize of one channel [h, w]: position i * in / out in float32, no half pixels."""
    height, width = image.shape
    out = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            y = float(np.float32(row) * np.float32(height / size))
            x = float(np.float32(column) * np.float32(width / size))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = image[y0, x0] + (image[y0, x1] - image[y0, x0]) * (x - x0)
            bottom = image[y1, x0] + (image[y1, x1] - image[y1, x0]) * (x - x0)
            out[row, column] = top + (bottom - top) * (y - y0)
    return out


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


def quantise(images: np.ndarray, *, low: float, how: str) -> np.ndarray:
    """Values from `low` to 1 as grey levels: one by one, cut or rounded with halves up."""
    levels = []
    for value in images.ravel().tolist():
        level = (value - low) / (1 - low) * 255 + (0.5 if how == "round" else 0.0)
        levels.append(int(min(max(level, 0.0), 255.0)))
    return np.array(levels, dtype=np.uint8).reshape(images.shape)


def squared_error(x: np.ndarray, y: np.ndarray) -> float:
    """One uint8 pair of any layout."""
    gaps = [(a - b) / 255 for a, b in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)]
    return sum(gap * gap for gap in gaps) / len(gaps)


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """One uint8 pair, in dB."""
    return float(20 * np.log10(1 / np.sqrt(max(squared_error(x, y), 1e-10))))


def pooled_psnr(x: np.ndarray, y: np.ndarray) -> float:
    """All uint8 pairs as if they were one."""
    return float(10 * np.log10(1 / squared_error(x, y)))


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


_VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions between poolings, by published key


def _vgg16(image: np.ndarray, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The last activation before each pooling, [c, h, w], of one picture [3, h, w]."""
    x, found = image, []
    for block, convolutions in enumerate(_VGG16):
        if block:
            height, width = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2).max(axis=(2, 4))
        for index in convolutions:
            kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            framed = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            y = np.zeros((len(kernel), *x.shape[1:])) + bias[:, None, None]
            for row in range(3):
                for column in range(3):
                    window = framed[:, row : row + x.shape[1], column : column + x.shape[2]]
                    y += np.tensordot(kernel[:, :, row, column], window, axes=1)
            x = np.maximum(y, 0)
        found.append(x)
    return found


def lpips(x: np.ndarray, y: np.ndarray, weights: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> float:
    """One uint8 pair [h, w, 3]; VGG16's weights by their published keys, heads `lin0` to `lin4`."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    features = []
    for image in (x, y):
        pm1 = image / 255.0 * 2 - 1
        features.append(_vgg16(((pm1 - shift) / scale).transpose(2, 0, 1), weights))
    total = 0.0
    for layer, (one, other) in enumerate(zip(*features, strict=True)):
        one, other = (a / np.sqrt(np.sum(a**2, axis=0) + 1e-8) for a in (one, other))
        head = heads[f"lin{layer}.model.1.weight"].ravel()
        total += float(np.mean(np.tensordot(head, (one - other) ** 2, axes=1)))
    return total
