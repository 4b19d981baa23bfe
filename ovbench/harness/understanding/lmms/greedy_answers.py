"""Distinct questions → greedy answers in batches; what was decided within rounding error is decided again alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ovbench.harness.understanding.conversation import Tokenized, question_prompt, tokenize
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.decoding import greedy, prefill
from ovbench.harness.understanding.evaluate import CLOSE_CALL
from ovbench.harness.understanding.llava import Llava

_CLOSE_CALL_LOW = 0.1  # logits; 8 or 11 bits of mantissa, where sums in another order differ far more


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A distinct question."""

    image_id: str | None
    question: str
    max_new_tokens: int


def prompt_of(model: Llava, item: Asked) -> Tokenized:
    """Returns a question in the model's template, as ids."""
    has_image = item.image_id is not None
    text = question_prompt(model.form, item.question, has_image=has_image)
    return tokenize(model.tokenizer, text, has_image=has_image)


@torch.inference_mode()
def greedy_answers(model: Llava, asked: Sequence[Asked], tokens: TokenSource, *, batch_size: int) -> list[str]:
    """Returns the stripped answers, in the order of the questions; they do not depend on the batch size.

    Args:
        model: In evaluation mode.
        asked: Distinct questions, those of one picture side by side.
        tokens: Image ids → visual tokens.
        batch_size: Questions read together.
    """
    low = model.language_model.get_input_embeddings().weight.dtype in (torch.bfloat16, torch.float16)
    close_call = _CLOSE_CALL_LOW if low else CLOSE_CALL
    answers: dict[Asked, str] = {}
    kinds: dict[tuple[bool, int], list[Asked]] = {}  # what can be read together: all with a picture, or none
    for item in asked:
        kinds.setdefault((item.image_id is not None, item.max_new_tokens), []).append(item)
    for group in kinds.values():
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            for item, (text, gap) in zip(batch, _ask(model, batch, tokens), strict=True):
                again = len(batch) > 1 and gap < close_call
                answers[item] = _ask(model, [item], tokens)[0][0] if again else text
    return [answers[item] for item in asked]


def _ask(model: Llava, batch: Sequence[Asked], tokens: TokenSource) -> list[tuple[str, float]]:
    image_ids = [item.image_id for item in batch if item.image_id is not None]
    weight = next(model.projector.parameters(), None)
    visual = tokens(image_ids).to(torch.float32 if weight is None else weight.dtype) if image_ids else None
    state = prefill(model, [prompt_of(model, item) for item in batch], visual)
    texts, gaps = greedy(model, state, max_new_tokens=batch[0].max_new_tokens)
    return list(zip(texts, gaps, strict=True))
