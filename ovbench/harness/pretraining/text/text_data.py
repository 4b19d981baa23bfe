"""Training text of the miniature language model: a scene's caption, then questions about it with their answers.

Ids are looked up word by word when the pool is made, so a training step touches no tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ovbench._base.seeding import derive
from ovbench.harness.pretraining.text.tokenizer import BOS, EOS, PAD, ROLES, encode_words
from ovbench.tasks.world.captions import scene_caption
from ovbench.tasks.world.questions import training_turns
from ovbench.tasks.world.scene import make_scene


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWeights:
    """Loss weights of the tokens of one sequence."""

    caption: float = 1.0  # the caption, and the end mark after each answer
    question: float = 0.1  # role marks and questions
    answer: float = 4.0  # answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One question with its answer, as ids."""

    kind: str
    question: tuple[int, ...]  # from the user's role mark to the assistant's
    answer: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScene:
    """One scene as text."""

    caption: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """Right-padded sequences for next-token prediction."""

    ids: torch.Tensor  # int64 [B, T]
    weights: torch.Tensor  # float32 [B, T]; of predicting the token at that position; 0 at the start and in padding


def text_pool(
    table: Mapping[str, int], *, seed: int, first: int, count: int, candidates: int = 24
) -> tuple[TextScene, ...]:
    """Returns scenes `first` … `first + count - 1` of the training split as text.

    Args:
        table: Word → id.
        seed: Seed of the world.
        first: Index of the first scene.
        count: Number of scenes.
        candidates: Different questions to look for per scene; a batch takes a few of them.
    """
    user, assistant = (table[role] for role in ROLES)
    pool: list[TextScene] = []
    for index in range(first, first + count):
        scene = make_scene(seed, "train", index)
        turns = tuple(
            Turn(
                kind=question.kind,
                question=(user, *encode_words(question.text, table), assistant),
                answer=tuple(encode_words(question.answer, table)),
            )
            for question in training_turns(scene, seed, candidates)
        )
        pool.append(TextScene(caption=tuple(encode_words(scene_caption(scene), table)), turns=turns))
    return tuple(pool)


def draw_turns(turns: Sequence[Turn], count: int, kind_weights: Mapping[str, float], rng: random.Random) -> list[Turn]:
    """Returns up to `count` turns in random order, drawn without replacement by the weight of their kind."""
    keys = [(rng.random() ** (1.0 / kind_weights.get(turn.kind, 1.0)), number) for number, turn in enumerate(turns)]
    chosen = [turns[number] for _, number in sorted(keys, reverse=True)[:count]]
    rng.shuffle(chosen)
    return chosen


def draw_batch(
    pool: Sequence[TextScene],
    table: Mapping[str, int],
    *,
    seed: int,
    step: int,
    batch_size: int,
    num_turns: int,
    kind_weights: Mapping[str, float],
    weights: TextWeights,
) -> TextBatch:
    """Returns the batch of one step; it depends on (seed, step) alone."""
    rng = random.Random(derive(seed, "lm/batch", step))
    rows: list[list[int]] = []
    row_weights: list[list[float]] = []
    for scene in rng.choices(pool, k=batch_size):
        ids = [table[BOS], *scene.caption]
        loss = [0.0, *(weights.caption for _ in scene.caption)]
        for turn in draw_turns(scene.turns, num_turns, kind_weights, rng):
            ids += [*turn.question, *turn.answer, table[EOS]]
            loss += [weights.question] * len(turn.question)
            loss += [weights.answer] * len(turn.answer) + [weights.caption]
        rows.append(ids)
        row_weights.append(loss)
    length = max(map(len, rows))
    id_array = np.full((batch_size, length), table[PAD], dtype=np.int64)
    weight_array = np.zeros((batch_size, length), dtype=np.float32)
    for number, (ids, loss) in enumerate(zip(rows, row_weights, strict=True)):
        id_array[number, : len(ids)] = ids
        weight_array[number, : len(ids)] = loss
    return TextBatch(ids=torch.from_numpy(id_array), weights=torch.from_numpy(weight_array))
