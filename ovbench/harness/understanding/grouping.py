"""Batches all with or all without images, whose passes are of about equal length: `group_by_modality_length`.

Source: llava/train/llava_trainer.py of haotian-liu/LLaVA (`get_modality_length_grouped_indices`). As there, a batch is
a random one of its kind; its rows are dealt to the passes so that each has about as many words. Not as there: the order
is a function of (seed, epoch) alone, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovbench._base.seeding import numpy_generator
from ovbench.harness.understanding.data import TrainingData


def row_lengths(data: TrainingData, stage: int, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words of conversations, int64 [N], and whether each has an image, bool [N]."""
    words = np.zeros(len(rows), np.int64)
    pictured = np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
        conversation = data.conversation(stage, int(row), 0)
        words[place] = sum(len(message.text.split()) for message in conversation.messages)
        pictured[place] = conversation.image_id is not None
    return words, pictured


def deal(rows: np.ndarray, words: np.ndarray, num_parts: int) -> np.ndarray:
    """Returns rows in an order whose `num_parts` consecutive parts, equal in number, have about as many words each.

    The longest row first, each to the part with the fewest words that has room, as the reference deals to its GPUs.
    """
    size = len(rows) // num_parts
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    sums = [0] * num_parts
    for place in np.argsort(-words, kind="stable").tolist():
        part = min((number for number in range(num_parts) if len(parts[number]) < size), key=sums.__getitem__)
        parts[part].append(int(rows[place]))
        sums[part] += int(words[place])
    return np.array([row for part in parts for row in part], np.int64)


class GroupedOrder:
    """Which samples a step takes, batches being of one kind; like `Order`.

    An epoch is a whole number of batches: what is left over of both kinds makes mixed ones at its end, and the last is
    filled up from the epoch's beginning.

    Args:
        seed: Of the training.
        stage: 1 or 2.
        words: Length of each row, int64 [N].
        pictured: Whether it has an image, bool [N].
        batch_size: Rows of a step.
        num_parts: Passes that a batch is dealt to.
    """

    def __init__(
        self, seed: int, stage: int, words: np.ndarray, pictured: np.ndarray, *, batch_size: int, num_parts: int
    ) -> None:
        self._seed, self._stage = seed, stage
        self._words, self._pictured = words, pictured
        self._batch_size, self._num_parts = batch_size, num_parts
        self._epochs: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._words) // self._batch_size)

    def __call__(self, step: int, batch_size: int) -> list[tuple[int, int]]:
        """Returns (row, epoch) of each sample of a step."""
        assert batch_size == self._batch_size, "an order is made for one batch size"
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs = {epoch: self._batches(epoch)}
        return [(int(row), epoch) for row in self._epochs[epoch][place]]

    def _batches(self, epoch: int) -> np.ndarray:
        """Returns the rows of an epoch, int64 [batches, batch_size]."""
        generator = numpy_generator(self._seed, "llava/grouped", self._stage, epoch)
        order = generator.permutation(len(self._words))
        size = self._batch_size
        whole: list[np.ndarray] = []
        left: list[np.ndarray] = []
        for kind in (True, False):
            rows = order[self._pictured[order] == kind]
            count = len(rows) // size
            whole += list(rows[: count * size].reshape(count, size))
            left.append(rows[count * size :])
        batches = [whole[place] for place in generator.permutation(len(whole))]
        rest = np.concatenate(left)
        if len(rest):
            missing = -len(rest) % size
            rest = np.concatenate([rest, np.resize(order, missing)])
            batches += list(rest.reshape(-1, size))
        return np.stack([deal(batch, self._words[batch], self._num_parts) for batch in batches])
