"""A file of another program as a table of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench.results.printed import AS_PUBLISHED, Footnotes, Line, Printed, Section, Shown

FOREIGN = "foreign"  # kind of the rows


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignScore:
    """One number of another program, at its own scale."""

    task: str
    metric: str
    value: float | None
    higher_is_better: bool | None = None  # None: the file does not say
    n: int | None = None  # items; None: the file does not say
    error: float | None = None  # standard error or deviation, as the program calls it
    reason: str | None = None  # why there is no value


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSheet:
    """What one file holds."""

    program: str  # with its version, where the file says it
    path: Path
    digest: str  # sha256 of the file
    model: str  # as the file names it; empty: it does not
    scores: tuple[ForeignScore, ...]
    details: tuple[str, ...] = ()  # what else the file says of how the numbers were made

    @property
    def title(self) -> str:
        """The program and the file."""
        return f"FOREIGN · {self.program} · {self.path}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Whose numbers these are."""
        return (
            f"read from {self.path} (sha256 {self.digest[:8]}…): numbers of {self.program}, at its own scale and with "
            "its own scoring; not comparable with ours unless its settings are",
            "±: what the program gives as error; no interval of ours",
            *self.details,
        )

    def lay_out(self) -> Printed:
        """Returns one line per score."""
        notes = Footnotes()
        headers = (("model",), ("task",), ("metric",), ("value",), ("n",))
        lines = tuple(self._line(score, notes) for score in self.scores)
        section = Section(title="", headers=headers, rows=lines, left=3)
        return Printed(title=self.title, sections=(section,), footnotes=notes.lines, legend=self.notes)

    def _line(self, score: ForeignScore, notes: Footnotes) -> Line:
        arrow = {True: " ↑", False: " ↓", None: ""}[score.higher_is_better]
        if score.value is None:
            value = notes.missing(score.reason or "the file holds none")
        else:
            error = "" if score.error is None else f"±{score.error:.4g}"
            value = Shown(value=f"{score.value:.6g}", interval=error, key=score.value)
        return Line(
            cells=(
                Shown(value=self.model or "not named"),
                Shown(value=score.task),
                Shown(value=f"{score.metric}{arrow}"),
                value,
                Shown(value="" if score.n is None else str(score.n), key=score.n),
            )
        )

    def long_rows(self) -> list[dict[str, Any]]:
        """Returns one row per score; its error stands in `spread`."""
        return [
            {
                "row": self.model or None,
                "kind": FOREIGN,
                "task": score.task,
                "metric": score.metric,
                "scorer": self.program,
                "unit": AS_PUBLISHED,
                "higher_is_better": score.higher_is_better,
                "n": score.n,
                "value": score.value,
                "spread": score.error,
                "interval": "none: the program's own error is in spread" if score.error is not None else "none",
                "reason": None if score.value is not None else score.reason or "the file holds none",
                "table": self.title,
                "source": str(self.path),
            }
            for score in self.scores
        ]


def finite(value: Any, what: str, where: Path) -> float | None:
    """Returns a number of a foreign file; None where the program wrote a word in its place, such as `N/A`.

    Raises:
        DataError: NaN or infinity: the file is damaged, or its run was.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value != value or value in (float("inf"), float("-inf")):
        raise DataError(f"{what} is {value}", where=str(where), fix="repeat that program's run: this is no score")
    return float(value)


def has_scores(scores: Sequence[ForeignScore], path: Path, program: str) -> tuple[ForeignScore, ...]:
    """Returns the scores.

    Raises:
        DataError: There are none.
    """
    if not scores:
        raise DataError(f"'{path.name}' looks like a file of {program} and holds no score", where=str(path))
    return tuple(scores)
