"""Reading a prompt once, then scoring options and decoding greedily from what was read.

Rows are padded on the right; positions are counted per row, so a row's answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
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
    lengths: torch.Tensor  # int64 [B], positions in use of each row
    logits: torch.Tensor  # float32 [B, V], of the first new token
    cache: Any  # keys and values of all T positions
    mask: torch.Tensor  # int64 [B, T], 1 at positions in use


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
    mask = (positions < lengths[:, None]).long()
    last = logits[torch.arange(count, device=logits.device), place].float()
    return Prefilled(prompts=tuple(prompts), lengths=lengths, logits=last, cache=cache, mask=mask)


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


class Answers:
    """Greedy answers as they are written: which questions go on, and how close the decisions were.

    Args:
        limits: Per question, the longest answer.
        ends: Tokens that end an answer.
        closing: Tokens that, as the first of an answer, are taken for all of it. Not exact: what follows is not seen.
    """

    def __init__(self, limits: Sequence[int], *, ends: Set[int], closing: Set[int] = frozenset()) -> None:
        self._limits, self._ends, self._closing = tuple(limits), ends, closing
        self.ids: list[list[int]] = [[] for _ in limits]
        self.gaps = [float("inf")] * len(limits)  # the smallest between the two best tokens on the way, nats
        self.num_steps = 0  # forward passes of one token

    def take(self, items: Sequence[int], logits: torch.Tensor) -> list[tuple[int, int]]:
        """Writes one token of some questions and returns (place in `items`, token) of those that go on.

        Args:
            items: Numbers of the questions.
            logits: Of their next token, `[items, V]`.
        """
        best = logits.topk(2, dim=-1)
        going: list[tuple[int, int]] = []
        pairs = zip(items, best.indices[:, 0].tolist(), best.values.tolist(), strict=True)
        for place, (item, token, (first, second)) in enumerate(pairs):
            written = self.ids[item]
            if len(written) >= self._limits[item]:
                continue
            self.gaps[item] = min(self.gaps[item], first - second)
            if token in self._ends:
                continue
            written.append(token)
            trusted = len(written) == 1 and token in self._closing
            if not trusted and len(written) < self._limits[item]:
                going.append((place, token))
        return going


def greedy(model: Llava, state: Prefilled, answers: Answers) -> None:
    """Writes the greedy answers to the prompts; those that have ended leave the batch. Uses up the cache of `state`.

    Args:
        model: In evaluation mode.
        state: The prompts, read.
        answers: One entry per prompt, empty.
    """
    device = state.logits.device
    alive = torch.arange(len(state.lengths), device=device)
    mask, logits = state.mask, state.logits
    step = 0
    while going := answers.take(alive.tolist(), logits):
        keep = torch.tensor([place for place, _ in going], device=device)
        if len(keep) < len(alive):
            state.cache.batch_select_indices(keep)
        alive, mask = alive[keep], mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = (
            model.language_model(
                input_ids=torch.tensor([[token] for _, token in going], device=device),
                attention_mask=mask,
                position_ids=(state.lengths[alive] + step)[:, None],
                past_key_values=state.cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
        step += 1
        answers.num_steps += 1


def text_of(model: Llava, ids: Sequence[int]) -> str:
    """Returns a written answer as text."""
    return model.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
