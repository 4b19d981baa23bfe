"""Whether a reference fits what is compared with it: its purpose, network, width, weights and resize."""

from __future__ import annotations

from typing import cast

from ovbench._base.errors import ConfigError
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.references import OTHER_PURPOSE, Purpose, Reference


def check_purpose(reference: Reference, purpose: Purpose) -> list[str]:
    """Refuses a reference that was made for the other kind of score; returns warnings.

    Raises:
        ConfigError: It was.
    """
    if reference.purpose is None:
        return [f"'{reference.name}' does not say whether it is a reference for generation or for reconstruction"]
    if reference.purpose != purpose:
        score = {"reconstruction": "rFID", "generation": "gFID"}[purpose]
        raise ConfigError(
            f"'{reference.name}' is a reference for {reference.purpose}, and {score} cannot be computed with it",
            where="REAL",
            fix=OTHER_PURPOSE[purpose],
        )
    return []


def check_match(reference: Reference, info: ExtractorInfo) -> list[str]:
    """Refuses statistics of another network, width, weights or resize than those of the extractor; returns warnings.

    Raises:
        ConfigError: They are.
    """
    if reference.pool.dim != info.dim:
        raise ConfigError(
            f"'{reference.name}' has {reference.pool.dim} dimensions, and '{info.name}' gives {info.dim}",
            where="REAL",
            fix="use statistics of this extractor, or the extractor that made them",
        )
    if reference.spatial is not None and info.spatial in info.layers:
        wanted = info.layers[cast(str, info.spatial)]
        if reference.spatial.dim != wanted:
            raise ConfigError(
                f"'{reference.name}' has {reference.spatial.dim} spatial dimensions, and '{info.name}' gives {wanted}",
                where="REAL",
                fix="use statistics of this extractor, or leave sFID out",
            )
    pairs = (
        ("network", reference.network, info.network),
        ("resize", reference.resize, info.resize),
        ("weights", reference.weights_sha256, info.weights_sha256),
    )
    warnings: list[str] = []
    for what, theirs, ours in pairs:
        if theirs is None:
            # The published files are of the 2015 weights: once the network is known, so are they.
            if what != "weights" or reference.network is None or not info.trained:
                warnings.append(f"'{reference.name}' does not say its {what}; it is taken to be {ours}")
        elif theirs != ours:
            raise ConfigError(
                f"'{reference.name}' was made with the {what} {theirs[:24]}, and '{info.name}' uses {ours[:24]}",
                where="REAL",
                fix="statistics of two conventions are not compared: choose the extractor that made the reference",
            )
    if reference.n is None:
        warnings.append(f"'{reference.name}' does not say of how many pictures it is")
    elif reference.n <= reference.pool.dim:
        warnings.append(
            f"'{reference.name}' is of {reference.n} pictures at {reference.pool.dim} dimensions: its covariance is "
            "singular and the distance biased"
        )
    return warnings
