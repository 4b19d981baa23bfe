"""What a scoring protocol is: how a program reads an answer, and what it makes of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ovbench._base.errors import DataError
from ovbench.tasks.answers import option_at
from ovbench.tasks.base import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A question and what a model wrote, before anyone read it."""

    sample: Sample
    raw: str
    option_scores: tuple[float, ...] | None = None  # mean log-likelihood per option


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A question and what a program made of the model's text."""

    sample: Sample
    said: str | None  # an option's text, yes or no, a normalised text; None: the program found nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringProtocol:
    """One program's way to score a benchmark."""

    title: str
    read: Callable[[Answered], str | None]
    aggregate: Callable[[Sequence[Read]], dict[str, float]]  # numbers under the program's own names
    headline: str  # of these, the one that is quoted
    ours: Mapping[str, str]  # its names → key of our metric that measures the same, or is quoted for the same
    citation: str
    units: Mapping[str, str] = field(default_factory=dict)  # of numbers that are no fractions
    needs: Literal["text", "letters", "likelihoods"] = "text"  # letters: the prompt asked for one

    def score(self, answers: Sequence[Answered]) -> dict[str, float]:
        """Returns the program's numbers of a set of answers.

        Raises:
            DataError: There is no answer, or likelihoods are needed and were not stored.
        """
        if not answers:
            raise DataError("there is no answer to score")
        return self.aggregate(self.readings(answers))

    def readings(self, answers: Sequence[Answered]) -> list[Read]:
        """Returns what the program reads in each answer; raises as `score`."""
        if self.needs == "likelihoods" and any(item.option_scores is None for item in answers):
            raise DataError("it ranks the options by likelihood, and no likelihoods were stored with the answers")
        return [Read(sample=item.sample, said=self.read(item)) for item in answers]


def likeliest(item: Answered) -> str | None:
    """Returns the option of the highest likelihood, the first of equal ones: SEED-Bench's own script."""
    scores = item.option_scores
    return item.sample.options[scores.index(max(scores))] if scores else None


def by_letter(read: Callable[[str, tuple[str, ...]], str | None]) -> Callable[[Answered], str | None]:
    """Returns a reader of options from a reader of letters, which takes the text and the options."""
    return lambda item: option_at(read(item.raw, item.sample.options), item.sample.options)


def by_text(read: Callable[[str], str | None]) -> Callable[[Answered], str | None]:
    """Returns a reader from a function of the text alone."""
    return lambda item: read(item.raw)


def share_right(readings: Sequence[Read]) -> float:
    """Returns the share of readings that are the sample's answer."""
    return sum(item.said == item.sample.answer for item in readings) / len(readings)


def grouped(readings: Sequence[Read]) -> dict[str, list[Read]]:
    """Returns readings by the group of their questions, as they come; without a name left out."""
    table: dict[str, list[Read]] = {}
    for item in readings:
        if item.sample.group:
            table.setdefault(item.sample.group, []).append(item)
    return table
