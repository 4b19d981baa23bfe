"""What every source gives: rows, a way to get a picture, and digests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One question as the source has it, before the prompt is made."""

    item_id: str
    image_id: str
    question: str
    options: tuple[str, ...]
    answer: str  # the right option's text, `yes` or `no`; of an open question its first reference answer
    group: str
    answers: tuple[str, ...] = ()  # of an open question: every reference answer, as often as it was given
    extra: Mapping[str, str] = field(default_factory=dict)  # other columns that the prompt or the scorer reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A source that has been read."""

    rows: tuple[Row, ...]
    digest: str  # of where the rows are from: generator and seeds, or the file
    image: Callable[[str], numpy.ndarray]  # image id → uint8 [H, W, 3], RGB
    digest_images: Callable[[tuple[str, ...]], str]  # image ids → sha256 over the pictures
    provenance: Mapping[str, str] = field(default_factory=dict)  # of a published table: repository, revision, folder
