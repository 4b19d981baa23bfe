"""A row per group: what its questions share, then every question, each of which sees the shared part and itself.

Positions of each question go on from the end of the shared part, as if it stood there alone. Nothing is copied and,
within a row, nothing is padded. Options of several tokens hang on their question in the same way, so a row is a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ovbench.harness.understanding.answer_requests import Ask
from ovbench.harness.understanding.decoding import Answers
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.prefix_cache import Kept, continued, embedded


@dataclass(kw_only=True, slots=True)
class _Row:
    """One group, laid out."""

    positions: list[int] = field(default_factory=list)  # token ids and visual rows
    places: list[int] = field(default_factory=list)  # position that each would have alone
    segments: list[int] = field(default_factory=list)  # number of the segment that each belongs to
    parents: list[int] = field(default_factory=list)  # per segment, the one in front of it; -1: what was read before

    def add(self, positions: Sequence[int], *, parent: int, start: int) -> int:
        """Adds a segment and returns its number; `start` is its first place."""
        self.parents.append(parent)
        self.positions += positions
        self.places += range(start, start + len(positions))
        self.segments += [len(self.parents) - 1] * len(positions)
        return len(self.parents) - 1


def answer_packed(
    model: Llava,
    groups: Sequence[Sequence[Ask]],
    kept: Kept | None,
    shared: Sequence[Sequence[int]],
    rows: Sequence[Sequence[Sequence[int]]],
    visual: torch.Tensor | None,
    image_of: Sequence[int | None],
    answers: Answers,
) -> list[list[float]]:
    """Writes the answers of groups and returns the scores of their options, in the order of the groups' questions.

    Args:
        model: In evaluation mode.
        groups: The questions of each group.
        kept: What stands in front of every group, one row without padding; None: nothing.
        shared: Per group, the positions behind it that its questions share; may be empty.
        rows: Per group and question, its own positions.
        visual: `[images, N, C]`, or None.
        image_of: Per group, the number of its image.
        answers: One entry per question, empty.
    """
    device = model.device
    front = 0 if kept is None else kept.padded
    trees = [_Row() for _ in groups]
    wanted: list[tuple[int, int]] = []  # (row, column) of each question's last position
    segment_of: list[tuple[int, int]] = []  # (row, segment) of each question
    next_place: list[int] = []
    options: list[tuple[int, int, int, int]] = []  # (question, option, row, first column)
    for number, (asks, tree) in enumerate(zip(groups, trees, strict=True)):
        root = tree.add(shared[number], parent=-1, start=front) if shared[number] else -1
        start = front + len(shared[number])
        for ask, own in zip(asks, rows[number], strict=True):
            segment = tree.add(own, parent=root, start=start)
            question = len(wanted)
            wanted.append((number, len(tree.positions) - 1))
            segment_of.append((number, segment))
            next_place.append(start + len(own))
            for option, ids in ask.longer:
                options.append((question, option, number, len(tree.positions)))
                tree.add(ids[:-1], parent=segment, start=start + len(own))

    width = max(len(tree.positions) for tree in trees)
    num_segments = max(len(tree.parents) for tree in trees)
    sees = _sees(trees, num_segments).to(device)
    # Padding is a segment that only sees itself.
    segments = torch.tensor([tree.segments + [num_segments] * (width - len(tree.segments)) for tree in trees])
    segments = segments.to(device)
    places = torch.tensor([tree.places + [0] * (width - len(tree.places)) for tree in trees], device=device)
    columns = sorted({column for _, column in wanted} | _option_columns(options, groups))
    cache = continued(model, kept, torch.zeros(len(trees), dtype=torch.int64, device=device))
    embeddings = embedded(model, [tree.positions for tree in trees], visual, image_of)
    earlier = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    allowed = _pairs(sees, segments, segments) & earlier
    logits = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=_mask(allowed, front, embeddings.dtype),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(columns, device=device),
    ).logits
    place_of = {column: place for place, column in enumerate(columns)}
    at = torch.tensor([(row, place_of[column]) for row, column in wanted], device=device)
    last = logits[at[:, 0], at[:, 1]].float()
    scores = _option_scores(groups, options, last, logits, place_of)
    del logits, embeddings, allowed
    _decode(model, cache, front, sees, segments, segment_of, next_place, last, answers)
    return scores


def _decode(
    model: Llava,
    cache: object,
    front: int,
    sees: torch.Tensor,
    segments: torch.Tensor,
    segment_of: Sequence[tuple[int, int]],
    next_place: Sequence[int],
    logits: torch.Tensor,
    answers: Answers,
) -> None:
    """Goes on with every question at once: each new token is one more position of its question's segment."""
    device = segments.device
    padding = sees.shape[-1] - 1
    alive = list(range(len(segment_of)))
    row_of = {row: row for row in range(len(segments))}  # row at the start → row now
    step = 0
    while going := answers.take(alive, logits):
        alive = [alive[place] for place, _ in going]
        rows = sorted({segment_of[item][0] for item in alive})
        if len(rows) < len(segments):
            chosen = torch.tensor([row_of[row] for row in rows], device=device)
            cache.batch_select_indices(chosen)  # type: ignore[attr-defined]
            sees, segments = sees[chosen], segments[chosen]
            row_of = {row: place for place, row in enumerate(rows)}
        slots: list[list[int]] = [[] for _ in rows]  # per row, places in `alive`
        for place, item in enumerate(alive):
            slots[row_of[segment_of[item][0]]].append(place)
        width = max(map(len, slots))
        ids = torch.full((len(rows), width), model.pad, dtype=torch.int64)
        new = torch.full((len(rows), width), padding, dtype=torch.int64)
        places = torch.zeros(len(rows), width, dtype=torch.int64)
        at: list[tuple[int, int]] = [(0, 0)] * len(alive)
        for row, members in enumerate(slots):
            for column, place in enumerate(members):
                ids[row, column] = going[place][1]
                new[row, column] = segment_of[alive[place]][1]
                places[row, column] = next_place[alive[place]] + step
                at[place] = (row, column)
        new = new.to(device)
        segments = torch.cat([segments, new], dim=1)
        found = model.language_model(
            input_ids=ids.to(device),
            attention_mask=_mask(_pairs(sees, new, segments), front, model_dtype(model)),
            position_ids=places.to(device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        chosen = torch.tensor(at, device=device)
        logits = found[chosen[:, 0], chosen[:, 1]].float()
        step += 1
        answers.num_steps += 1


def model_dtype(model: Llava) -> torch.dtype:
    """Returns the precision of the language model."""
    return model.language_model.get_input_embeddings().weight.dtype


def _sees(trees: Sequence[_Row], num_segments: int) -> torch.Tensor:
    """Returns which segment sees which, bool `[rows, S + 1, S + 1]`: itself and what is in front of it in the tree."""
    sees = torch.eye(num_segments + 1, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        for segment, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[row, segment] |= sees[row, parent]
    return sees


def _pairs(sees: torch.Tensor, asking: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Returns bool `[rows, Q, K]` of the positions' segments `[rows, Q]` and `[rows, K]`."""
    row = torch.arange(len(sees), device=sees.device)[:, None, None]
    return sees[row, asking[:, :, None], asked[:, None, :]]


def _mask(allowed: torch.Tensor, front: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns what is added to attention, `[rows, 1, Q, front + K]`: 0 where a position is seen, the least elsewhere.

    A bool mask would do for `sdpa`; `eager` adds what it is given.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    return torch.nn.functional.pad(mask, (front, 0))[:, None]


def _option_columns(options: Sequence[tuple[int, int, int, int]], groups: Sequence[Sequence[Ask]]) -> set[int]:
    asks = [ask for group in groups for ask in group]
    return {
        first + step
        for question, option, _, first in options
        for step in range(len(asks[question].options[option]) - 1)
    }


def _option_scores(
    groups: Sequence[Sequence[Ask]],
    options: Sequence[tuple[int, int, int, int]],
    last: torch.Tensor,
    logits: torch.Tensor,
    place_of: dict[int, int],
) -> list[list[float]]:
    """Returns the mean log-likelihood of each option's tokens."""
    asks = [ask for group in groups for ask in group]
    log_probs = last.log_softmax(-1)
    totals = [[float(log_probs[number, ids[0]]) for ids in ask.options] for number, ask in enumerate(asks)]
    for question, option, row, first in options:
        ids = asks[question].options[option]
        at = torch.tensor([place_of[first + step] for step in range(len(ids) - 1)], device=logits.device)
        each = logits[row, at].float().log_softmax(-1)
        rest = each.gather(-1, torch.tensor(ids[1:], device=logits.device)[:, None]).sum()
        totals[question][option] = (totals[question][option] + float(rest)) / len(ids)
    return totals
