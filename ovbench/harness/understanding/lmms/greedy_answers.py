"""Distinct questions → greedy answers, by the engine that reads what they share once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.engine import AnswerEngine
from ovbench.harness.understanding.llava import Llava


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A distinct question."""

    image_id: str | None
    question: str
    max_new_tokens: int


def greedy_answers(model: Llava, asked: Sequence[Asked], tokens: TokenSource, *, batch_size: int) -> list[str]:
    """Returns the stripped answers, in the order of the questions; they do not depend on the batch size.

    Args:
        model: In evaluation mode.
        asked: Distinct questions, those of one picture side by side.
        tokens: Image ids → visual tokens.
        batch_size: Questions read together, where nothing can be shared.
    """
    engine = AnswerEngine(model, tokens, score_options=False, batch_size=batch_size)
    requests = [
        Request(image_id=item.image_id, question=item.question, max_new_tokens=item.max_new_tokens) for item in asked
    ]
    return [reply.raw for reply in engine.ask(requests)]
