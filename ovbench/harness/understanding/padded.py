"""A row per question: what a group shares is read once, and its keys and values are copied to every row.

The rest of each question is padded on the right; a mask says which positions are real, and positions are counted per
row, so that a row's answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovbench.harness.understanding.answer_requests import Pack
from ovbench.harness.understanding.decoding import Answers, Prefilled, greedy
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.prefix_cache import Kept, continued, embedded


def answer_padded(
    model: Llava,
    pack: Pack,
    kept: Kept,
    rows: Sequence[Sequence[int]],
    visual: torch.Tensor | None,
    image_of: Sequence[int | None],
    answers: Answers,
) -> list[list[float]]:
    """Writes the answers of a pack and returns the scores of its options.

    Args:
        model: In evaluation mode.
        pack: The questions.
        kept: What each group shares, a row per group.
        rows: Per question, its positions behind the shared ones.
        visual: `[images, N, C]`, or None.
        image_of: Per question, the number of its image.
        answers: One entry per question, empty.
    """
    device = model.device
    group_of = torch.tensor([place for place, group in enumerate(pack.groups) for _ in group.asks], device=device)
    cache = continued(model, kept, group_of)
    front = kept.real[group_of]
    begins = front.sum(1)  # positions in use are counted, padding between them is not
    sizes = torch.tensor([len(row) for row in rows], device=device)
    embeddings = embedded(model, rows, visual, image_of)
    own = torch.arange(embeddings.shape[1], device=device)
    mask = torch.cat([front, own[None] < sizes[:, None]], dim=1).long()
    columns, place = (sizes - 1).unique(return_inverse=True)
    logits = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=begins[:, None] + own[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=columns,
    ).logits
    last = logits[torch.arange(len(rows), device=device), place].float()
    state = Prefilled(
        prompts=tuple(ask.prompt for ask in pack.asks), lengths=begins + sizes, logits=last, cache=cache, mask=mask
    )
    scores = _option_scores(model, pack, state)
    greedy(model, state, answers)
    return scores


def _option_scores(model: Llava, pack: Pack, state: Prefilled) -> list[list[float]]:
    """Returns the mean log-likelihood of each option's tokens; a row per option that has several tokens."""
    log_probs = state.logits.log_softmax(-1)
    totals = [[float(log_probs[row, ids[0]]) for ids in ask.options] for row, ask in enumerate(pack.asks)]
    longer = [(row, number, ids) for row, ask in enumerate(pack.asks) for number, ids in ask.longer]
    if not longer:
        return totals
    device = state.logits.device
    of_row = torch.tensor([row for row, _, _ in longer], device=device)
    rows = [ids[:-1] for _, _, ids in longer]
    table = torch.full((len(rows), max(map(len, rows))), model.pad, dtype=torch.int64)
    for number, ids in enumerate(rows):
        table[number, : len(ids)] = torch.tensor(ids)
    sizes = torch.tensor([len(ids) for ids in rows], device=device)
    own = torch.arange(table.shape[1], device=device)
    # A copy: the prompts' own cache goes on to the free answers.
    found = model.language_model(
        input_ids=table.to(device),
        attention_mask=torch.cat([state.mask[of_row], (own[None] < sizes[:, None]).long()], dim=1),
        position_ids=state.lengths[of_row][:, None] + own[None],
        past_key_values=continued(
            model,
            Kept(layers=tuple((layer.keys, layer.values) for layer in state.cache.layers), real=state.mask.bool()),
            of_row,
        ),
        use_cache=True,
    ).logits.float()
    for number, (row, option, ids) in enumerate(longer):
        each = found[number, : len(ids) - 1].log_softmax(-1)
        rest = each.gather(-1, torch.tensor(ids[1:], device=device)[:, None]).sum()
        totals[row][option] = (totals[row][option] + float(rest)) / len(ids)
    return totals
