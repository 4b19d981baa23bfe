"""What LLaVA's script for SEED-Bench prints, counted in the plainest way from its own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovbench.harness.metrics.seedbench import TYPES


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedQuestion:
    """A row of SEED-Bench's own file, as far as LLaVA's script reads it."""

    question_id: str
    question_type: int  # 1 to 12
    data_type: str  # image or video
    answer: str  # letter


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedTable:
    """How many questions of each type there are, and how many LLaVA's script takes for right."""

    asked: Mapping[int, int]
    right: Mapping[int, int]

    @property
    def accuracy(self) -> float:
        """Of all questions, in [0, 1]; there must be one."""
        return sum(self.right.values()) / sum(self.asked.values())

    def lines(self, name: str | None = None) -> list[str]:
        """Returns what the script prints: every type and the total, or one line for the data type `name`."""
        if name is not None:
            return [f"{name} accuracy: {100 * self.accuracy:.2f}%"]
        types = [f"{TYPES[kind - 1]}: {100 * self.right[kind] / self.asked[kind]:.2f}%" for kind in sorted(self.asked)]
        return [*types, f"Total accuracy: {100 * self.accuracy:.2f}%"]


def llava_table(
    questions: Sequence[SeedQuestion], answers: Sequence[tuple[str, str]], data_type: str | None = None
) -> SeedTable:
    """Counts as LLaVA's script does: by question id, so that of two answers with one id the last counts for both.

    A question without an answer is wrong. (The script stops where a type has no right answer; here it has none.)

    Args:
        questions: The whole file.
        answers: (question id, text) in the order of the answer file; the text must equal the letter.
        data_type: Only image or video.
    """
    texts = dict(answers)
    chosen = [question for question in questions if data_type in (None, question.data_type)]
    asked = dict.fromkeys((question.question_type for question in chosen), 0)
    right = dict(asked)
    for question in chosen:
        asked[question.question_type] += 1
        right[question.question_type] += texts.get(question.question_id) == question.answer
    return SeedTable(asked=asked, right=right)
