"""What torch-fidelity and clean-fid print or save: JSON, or lines of `name: value`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench._base.fingerprint import file_sha256
from ovbench.results.foreign.sheet import ForeignScore, ForeignSheet, finite, has_scores

# Key of torch-fidelity → name, direction.
_FIDELITY: Mapping[str, tuple[str, bool]] = {
    "frechet_inception_distance": ("FID", False),
    "inception_score_mean": ("IS", True),
    "kernel_inception_distance_mean": ("KID", False),
    "perceptual_path_length_mean": ("PPL", False),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "f_score": ("F score", True),
}
# clean-fid prints one number; what stands before it is up to whoever called it.
_CLEAN: Mapping[str, tuple[str, bool]] = {
    "fid": ("FID", False), "clean_fid": ("FID", False), "clip_fid": ("CLIP-FID", False), "kid": ("KID", False),
    "clean_kid": ("KID", False), "legacy_fid": ("FID (legacy mode)", False),
}  # fmt: skip
_LINE = re.compile(
    r"^\s*(?P<name>[A-Za-z][\w .()-]*?)\s*[:=]\s*(?P<value>[-+]?(?:\d[\d.eE+-]*|nan|inf))\s*$", re.IGNORECASE
)


def numbers_of_text(text: str) -> dict[str, float]:
    """Returns the `name: value` lines of a text; other lines are progress and are passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if (match := _LINE.match(line)) is not None:
            try:
                found[match["name"]] = float(match["value"])
            except ValueError:
                continue
    return found


def read_scores(path: Path, numbers: Mapping[str, Any]) -> ForeignSheet | None:
    """Returns the scores among the numbers of a file; None where none has a name of either program."""
    own = {key: value for key, value in numbers.items() if key in _FIDELITY}
    # `precision` alone may be of anything: torch-fidelity is known by its long names.
    if any("_" in key for key in own) or {"precision", "recall"} <= own.keys():
        return _sheet(path, "torch-fidelity", own, _FIDELITY, numbers)
    named = {_plain(key): value for key, value in numbers.items()}
    own = {key: value for key, value in named.items() if key in _CLEAN}
    return _sheet(path, "clean-fid", own, _CLEAN, named) if own else None


def _sheet(
    path: Path, program: str, own: Mapping[str, Any], names: Mapping[str, tuple[str, bool]], others: Mapping[str, Any]
) -> ForeignSheet:
    scores = []
    for key, value in own.items():
        name, higher = names[key]
        deviation = others.get(key.removesuffix("_mean") + "_std") if key.endswith("_mean") else None
        number = finite(value, f"'{key}'", path)
        scores.append(
            ForeignScore(
                task="pictures",
                metric=name,
                value=number,
                higher_is_better=higher,
                error=finite(deviation, f"the deviation of '{key}'", path),
                reason=None if number is not None else f"the file says {value!r}",
            )
        )
    return ForeignSheet(
        program=program, path=path, digest=file_sha256(path), model="", scores=has_scores(scores, path, program)
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())
