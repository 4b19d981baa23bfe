"""Who published what, in which version, and how it was read."""

from __future__ import annotations

from dataclasses import dataclass

from ovbench._base.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One publication, in one version."""

    starts: str  # the source column of its rows begins so
    citation: str
    version: str  # of the paper, or what stands in its place
    how: str = ""  # how the rows were read, where it was not from the publication itself


# The first that fits counts: what is more particular stands above.
SOURCES = (
    Source(starts="OpenVision 3 v2", citation="OpenVision 3, arXiv 2601.15369", version="v2, March 2026"),
    Source(
        starts="OpenVision 3 v1",
        citation="OpenVision 3, arXiv 2601.15369",
        version="v1, January 2026",
        how="from the abstract, or from public summaries where the table says so; the tables of v1 are not here",
    ),
    Source(
        starts="OpenVision README",
        citation="OpenVision and OpenVision 2, model zoo of the repository github.com/UCSC-VLAA/OpenVision",
        version="repository, without a version",
        how="'MME' of the README is MME-P",
    ),
    Source(
        starts="OpenVision v1 paper",
        citation="OpenVision, arXiv 2505.04601",
        version="version of the paper not recorded",
        how="without the column of retrieval",
    ),
    Source(
        starts="arXiv:2510.11690 (third-party notes of the PDF)",
        citation="RAE, arXiv 2510.11690",
        version="version of the paper not recorded",
        how="second-hand: from a third party's notes of the PDF",
    ),
    Source(
        starts="arXiv:2510.11690",
        citation="RAE, arXiv 2510.11690",
        version="version of the paper not recorded",
        how="from the project page rae-dit.github.io",
    ),
    Source(
        starts="github.com/bytetriper/RAE issue",
        citation="RAE, issue of the repository github.com/bytetriper/RAE",
        version="repository, without a version",
        how="a post in a thread, not a publication",
    ),
    Source(
        starts="github.com/bytetriper/RAE README",
        citation="RAE, README of the repository github.com/bytetriper/RAE",
        version="repository, without a version",
    ),
)


def source_of(name: str) -> Source:
    """Returns the publication behind the source column of a row.

    Raises:
        DataError: Nobody is known to have published it.
    """
    for source in SOURCES:
        if name.startswith(source.starts):
            return source
    raise DataError(f"no citation is known for the source '{name}'", where="ovbench/results/published/sources.py")
