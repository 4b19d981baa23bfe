"""Inception Score in the two conventions that papers print, from the logits of a classifier.

Source: Salimans et al., Improved Techniques for Training GANs (arXiv:1606.03498), section 4:
IS = exp(E_x KL(p(y|x) || p(y))). Logits are those of the 2015 Inception without bias (specs/metrics.md §1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ovbench._base.errors import DataError
from ovbench.harness.metrics.moments import Features, check_count, check_features, to_float64

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
ADM_SPLIT = 5000  # images in a block of ADM's
TF_SPLITS, SHUFFLE_SEED = 10, 2020  # torch-fidelity's


@dataclass(frozen=True, kw_only=True, slots=True)
class InceptionScore:
    """The score (without a unit, between 1 and the number of classes), its spread over splits, and its convention."""

    mean: float
    std: float | None  # population standard deviation over splits; None where the convention gives none
    num_splits: int
    convention: Literal["adm", "torch-fidelity"]
    warnings: tuple[str, ...]


def _split_score(logits: torch.Tensor) -> float:
    """Returns exp of the mean over rows of sum_c p_c (log p_c - log mean p_c); p_c = 0 contributes 0, never NaN."""
    log_p = logits.log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - np.log(len(logits))
    terms = log_p.exp() * (log_p - log_marginal)
    return float(torch.where(log_p.exp() > 0, terms, 0.0).sum(dim=1).mean().exp())


def is_adm(
    logits: Features, *, split_size: int = ADM_SPLIT, labels: NDArray[Any] | None = None, device: str | None = None
) -> InceptionScore:
    """Returns the score as guided-diffusion computes it: consecutive blocks in file order, the last may be short.

    Of each block exp(mean_i sum_c p_ic (log p_ic - log mean_i p_ic)), then the mean over blocks. Source: Salimans et
    al. 2016, section 4; openai/guided-diffusion `evaluations/evaluator.py`, compute_inception_score. ADM's float32
    softmax gives NaN where a probability underflows; here everything is float64 and stays in logarithms.

    Args:
        logits: [n, classes].
        split_size: Images in a block.
        labels: Labels the images were made for, in file order, [n]; where they arrive sorted the result warns.
        device: Where to compute; None is where the logits are.
    """
    check_features(logits, "logits")
    check_count(split_size, "split_size", low=1)
    rows = to_float64(logits, device)
    scores = [_split_score(rows[torch.from_numpy(part)]) for part in adm_splits(len(rows), split_size)]
    warnings: list[str] = []
    if len(rows) % split_size and len(scores) > 1:
        warnings.append(f"the last block has {len(rows) % split_size} images instead of {split_size}")
    if labels is not None:
        if np.shape(labels) != (len(rows),):
            raise DataError(f"{len(rows)} logits came with labels of shape {list(np.shape(labels))}", where="labels")
        if labels_sorted(labels):
            warnings.append(
                "labels arrive sorted: consecutive blocks hold few classes each, and the score is far too low; "
                "mix the order of the images"
            )
    return InceptionScore(
        mean=float(np.mean(scores)), std=None, num_splits=len(scores), convention="adm", warnings=tuple(warnings)
    )


def is_tf(
    logits: Features,
    *,
    num_splits: int = TF_SPLITS,
    shuffle: bool = True,
    seed: int = SHUFFLE_SEED,
    device: str | None = None,
) -> InceptionScore:
    """Returns the score as torch-fidelity computes it: equal splits after a shuffle by `RandomState(seed)`.

    Of each split exp(mean_i sum_c p_ic (log p_ic - log mean_i p_ic)); split i holds rows i n // s to (i + 1) n // s.
    Source: Salimans et al. 2016, section 4; torch-fidelity 0.4.0 `metric_isc.py`, isc_features_to_metric.

    Args:
        logits: [n, classes].
        num_splits: Number of splits s.
        shuffle: Whether to shuffle first.
        seed: Of the shuffle.
        device: Where to compute; None is where the logits are.
    """
    check_features(logits, "logits")
    n = len(logits)
    check_count(num_splits, "num_splits", low=1, high=n, why="a split needs at least one image")
    rows = to_float64(logits, device)
    splits = tf_splits(n, num_splits, shuffle=shuffle, seed=seed)
    scores = [_split_score(rows[torch.from_numpy(part)]) for part in splits]
    return InceptionScore(
        mean=float(np.mean(scores)), std=float(np.std(scores)), num_splits=num_splits, convention="torch-fidelity",
        warnings=(),
    )  # fmt: skip


def score_without_blocks(
    logits: Features, splits: Sequence[Indices], blocks: Sequence[Indices], *, device: str | None = None
) -> Floats:
    """Returns the mean score over splits with each block of rows left out: the values of a jackknife, [blocks].

    With q the mean of p over a split, log IS = mean_x sum_c p log p - sum_c q log q: both parts are sums over rows, and
    leaving rows out takes theirs away.

    Args:
        logits: [n, classes].
        splits: Rows of each split, of `adm_splits` or `tf_splits`.
        blocks: Rows of each block; together all rows, each once.
        device: Where to compute; None is where the logits are.
    """
    rows = to_float64(logits, device)
    log_p = rows.log_softmax(dim=1)
    p = log_p.exp()
    negentropy = torch.where(p > 0, p * log_p, 0.0).sum(dim=1)
    block_of = torch.empty(len(rows), dtype=torch.int64)
    for index, block in enumerate(blocks):
        block_of[torch.from_numpy(block)] = index
    scores = torch.zeros(len(blocks), dtype=torch.float64, device=rows.device)
    used = torch.zeros_like(scores)
    for split in splits:
        members = torch.from_numpy(split)
        codes = block_of[members].to(rows.device)
        members = members.to(rows.device)
        counts = torch.bincount(codes, minlength=len(blocks)).double()
        sums = torch.zeros(len(blocks), p.shape[1], dtype=torch.float64, device=rows.device)
        sums.index_add_(0, codes, p[members])
        entropies = torch.zeros_like(scores).index_add_(0, codes, negentropy[members])
        left = counts.sum() - counts
        mean_p = (sums.sum(dim=0) - sums).clamp_min(0.0) / left.clamp_min(1.0)[:, None]
        marginal = torch.where(mean_p > 0, mean_p * mean_p.log(), 0.0).sum(dim=1)
        there = left > 0  # a split that lay in one block is gone with it
        scores += torch.where(there, ((entropies.sum() - entropies) / left.clamp_min(1.0) - marginal).exp(), 0.0)
        used += there
    return (scores / used).cpu().numpy()


def adm_splits(num_rows: int, split_size: int = ADM_SPLIT) -> list[Indices]:
    """Returns the rows of ADM's splits: consecutive blocks in file order, the last may be short."""
    return [np.arange(start, min(start + split_size, num_rows)) for start in range(0, num_rows, split_size)]


def tf_splits(
    num_rows: int, num_splits: int = TF_SPLITS, *, shuffle: bool = True, seed: int = SHUFFLE_SEED
) -> list[Indices]:
    """Returns the rows of torch-fidelity's splits: rows i n // s to (i + 1) n // s after a shuffle."""
    order = np.random.RandomState(seed).permutation(num_rows) if shuffle else np.arange(num_rows)
    return [order[i * num_rows // num_splits : (i + 1) * num_rows // num_splits] for i in range(num_splits)]


def labels_sorted(labels: NDArray[Any]) -> bool:
    """Whether each class comes in about one run: at most half as many runs again as classes.

    False where there are fewer than two images per class, since no order can be told then.
    """
    values = np.asarray(labels)
    num_classes = len(np.unique(values))
    if num_classes < 2 or len(values) < 2 * num_classes:
        return False
    return int(np.count_nonzero(values[1:] != values[:-1])) <= 1.5 * (num_classes - 1)
