"""Reading a prompt once, then scoring options and decoding greedily from what was read.

Rows are padded on the right; positions are counted per row, so a row's answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ovbench._base.lazy import require
from ovbench.harness.understanding.conversation import IGNORED, Tokenized
from ovbench.harness.understanding.llava import Llava, splice


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilled:
    """A batch of prompts that was read."""

    prompts: tuple[Tokenized, ...]
    lengths: torch.Tensor  # int64 [B], positions of each row
    logits: torch.Tensor  # float32 [B, V], of the first new token
    cache: Any  # keys and values of all T positions
    padded: int  # T


def prefill(model: Llava, prompts: Sequence[Tokenized], visual: torch.Tensor | None) -> Prefilled:
    """Reads prompts.

    Args:
        model: In evaluation mode.
        prompts: Samples with an image take the visual rows in order of appearance.
        visual: `[images, N, C]`, or None.
    """
    transformers = require("transformers", purpose="answering")

    num_visual = visual.shape[1] if visual is not None else 0
    batch = splice(prompts, num_visual=num_visual, pad=model.pad, max_length=model.max_length)
    embeddings = model.embed(batch, visual)
    count, padded = embeddings.shape[:2]
    lengths = batch.lengths.to(embeddings.device)
    columns, place = (lengths - 1).unique(return_inverse=True)
    cache = transformers.DynamicCache(config=model.language_model.config)
    positions = torch.arange(padded, device=embeddings.device)[None].expand(count, -1)
    logits = model.language_model(
        inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=columns
    ).logits
    last = logits[torch.arange(count, device=logits.device), place].float()
    return Prefilled(prompts=tuple(prompts), lengths=lengths, logits=last, cache=cache, padded=padded)


def option_scores(
    model: Llava, state: Prefilled, options: Sequence[Sequence[tuple[int, ...]]], visual: torch.Tensor | None
) -> list[list[float]]:
    """Returns the mean log-likelihood of each option's tokens after its prompt.

    Where all options are single tokens, the logits of the prompt's last position hold the answer; otherwise prompt
    and option are read together.

    Args:
        model: In evaluation mode.
        state: The prompts, read.
        options: Per prompt, the ids of each option.
        visual: What the prompts were read with.
    """
    log_probs = state.logits.log_softmax(-1)
    scores: list[list[float]] = [[] for _ in options]
    longer: list[int] = []
    for number, group in enumerate(options):
        if all(len(ids) == 1 for ids in group):
            scores[number] = [float(log_probs[number, ids[0]]) for ids in group]
        else:
            longer.append(number)
    if longer:
        for number, values in zip(longer, long_option_scores(model, state, options, visual, longer), strict=True):
            scores[number] = values
    return scores


def long_option_scores(
    model: Llava,
    state: Prefilled,
    options: Sequence[Sequence[tuple[int, ...]]],
    visual: torch.Tensor | None,
    rows: Sequence[int],
) -> list[list[float]]:
    """Returns what `option_scores` does for some rows, by reading prompt and option together: any option length."""
    image_of: dict[int, int] = {}
    for number, prompt in enumerate(state.prompts):
        if prompt.image_at is not None:
            image_of[number] = len(image_of)
    found: list[list[float]] = []
    for row in rows:
        prompt = state.prompts[row]
        samples = [
            Tokenized(ids=prompt.ids + ids, labels=(IGNORED,) * len(prompt.ids) + ids, image_at=prompt.image_at)
            for ids in options[row]
        ]
        repeated: torch.Tensor | None = None
        if prompt.image_at is not None:
            assert visual is not None
            repeated = visual[image_of[row]][None].expand(len(samples), -1, -1)
        batch = splice(
            samples,
            num_visual=repeated.shape[1] if repeated is not None else 0,
            pad=model.pad,
            max_length=model.max_length,
        )
        start = int(state.lengths[row]) - 1
        keep = torch.arange(start, batch.targets.shape[1] - 1)
        log_probs = model(batch, repeated, keep=keep).float().log_softmax(-1)
        targets = batch.targets[:, keep + 1].to(log_probs.device)
        learnt = targets != IGNORED
        picked = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * learnt
        found.append((picked.sum(-1) / learnt.sum(-1)).tolist())
    return found


def greedy(model: Llava, state: Prefilled, *, max_new_tokens: int) -> tuple[list[str], list[float]]:
    """Returns the greedy answers and, for each, the smallest gap between the two best tokens on the way, in nats.

    Rows that have ended leave the batch. Uses up the cache of `state`.

    Args:
        model: In evaluation mode.
        state: The prompts, read.
        max_new_tokens: Longest answer.
    """
    count = len(state.prompts)
    ends = _end_ids(model)
    written: list[list[int]] = [[] for _ in range(count)]
    gaps = [float("inf")] * count
    alive = torch.arange(count, device=state.logits.device)
    lengths = state.lengths
    mask = (torch.arange(state.padded, device=lengths.device)[None] < lengths[:, None]).long()
    logits = state.logits
    for step in range(max_new_tokens):
        best = logits.topk(2, dim=-1)
        going: list[int] = []
        for place, (row, token) in enumerate(zip(alive.tolist(), best.indices[:, 0].tolist(), strict=True)):
            gaps[row] = min(gaps[row], float(best.values[place, 0] - best.values[place, 1]))
            if token not in ends:
                written[row].append(token)
                going.append(place)
        if not going or step == max_new_tokens - 1:
            break
        keep = torch.tensor(going, device=alive.device)
        if len(going) < len(alive):
            state.cache.batch_select_indices(keep)
        alive, mask = alive[keep], mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = (
            model.language_model(
                input_ids=best.indices[keep, :1],
                attention_mask=mask,
                position_ids=(lengths[alive] + step)[:, None],
                past_key_values=state.cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
    texts = [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]
    return texts, gaps


def _end_ids(model: Llava) -> set[int]:
    found = model.tokenizer.eos_token_id
    return set() if found is None else {int(found)}
