"""Rows of one length, whole: for language models in which nothing can be shared and no padding is allowed.

Sliding windows count places in the cache, and recurrent models sum up what they read; both see padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ovbench.harness.understanding.answer_requests import Ask
from ovbench.harness.understanding.decoding import Answers
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.prefix_cache import cached, embedded, new_cache


def answer_equal(
    model: Llava,
    asks: Sequence[Ask],
    rows: Sequence[Sequence[int]],
    visual: torch.Tensor | None,
    image_of: Sequence[int | None],
    answers: Answers,
) -> list[list[float]]:
    """Writes the answers of questions and returns the scores of their options.

    Args:
        model: In evaluation mode.
        asks: The questions.
        rows: Per question, all its positions; of one length.
        visual: `[images, N, C]`, or None.
        image_of: Per question, the number of its image.
        answers: One entry per question, empty.
    """
    assert len({len(row) for row in rows}) == 1, "rows of one length"
    device = model.device
    cache = new_cache(model) if cached(model) else None
    read = embedded(model, rows, visual, image_of)
    found = _forward(model, cache, read, 0, keep=1)
    logits = found[:, -1].float()
    scores = [
        _scores(model, ask, row, visual, image, logits[number])
        for number, (ask, row, image) in enumerate(zip(asks, rows, image_of, strict=True))
    ]
    alive = torch.arange(len(rows), device=device)
    step = 0
    while going := answers.take(alive.tolist(), logits):
        keep = torch.tensor([place for place, _ in going], device=device)
        tokens = torch.tensor([[token] for _, token in going], device=device)
        new = model.language_model.get_input_embeddings()(tokens)
        if cache is None:
            read = torch.cat([read[keep], new], dim=1)
            logits = _forward(model, None, read, 0, keep=1)[:, -1].float()
        else:
            if len(keep) < len(alive):
                cache.batch_select_indices(keep)
            logits = _forward(model, cache, new, len(rows[0]) + step, keep=1)[:, -1].float()
        alive = alive[keep]
        step += 1
        answers.num_steps += 1
    return scores


def _forward(model: Llava, cache: Any, embeddings: torch.Tensor, start: int, *, keep: int) -> torch.Tensor:
    names = inspect.signature(model.language_model.forward).parameters
    given: dict[str, Any] = {"inputs_embeds": embeddings, "logits_to_keep": keep, "use_cache": cache is not None}
    if cache is not None:
        given["past_key_values"] = cache
    if "position_ids" in names:
        places = start + torch.arange(embeddings.shape[1], device=embeddings.device)
        given["position_ids"] = places[None].expand(len(embeddings), -1)
    return model.language_model(**given).logits


def _scores(
    model: Llava,
    ask: Ask,
    row: Sequence[int],
    visual: torch.Tensor | None,
    image: int | None,
    logits: torch.Tensor,
) -> list[float]:
    log_probs = logits.log_softmax(-1)
    totals = [float(log_probs[ids[0]]) for ids in ask.options]
    for number, ids in ask.longer:
        read = embedded(model, [[*row, *ids[:-1]]], visual, [image])
        each = _forward(model, None, read, 0, keep=len(ids) - 1)[0].float().log_softmax(-1)
        rest = each.gather(-1, torch.tensor(ids[1:], device=each.device)[:, None]).sum()
        totals[number] = (totals[number] + float(rest)) / len(ids)
    return totals
