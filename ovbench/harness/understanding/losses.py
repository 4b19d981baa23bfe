"""The loss of a batch in passes and over processes, so that neither changes it.

A batch is cut into groups of conversations, and its loss is the mean over the groups of each group's mean over its
learnt tokens:

- `micro_batch`: a group is a micro-batch, as in the reference's time (one GPU's share of a batch). Its size is part of
  the recipe, so the number of GPUs changes nothing.
- `global_tokens`: one group, the whole batch: each learnt token counts alike, as transformers' Trainer does today.

With a micro-batch of the whole batch the two are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovbench._base.errors import DataError
from ovbench.harness.parallel import Processes
from ovbench.harness.understanding.config import StageConfig
from ovbench.harness.understanding.conversation import IGNORED
from ovbench.harness.understanding.llava import Llava, Spliced


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """Consecutive conversations of a batch that one forward pass of one process takes."""

    places: range  # in the batch
    group: int


def passes_of(settings: StageConfig, share: range, *, pass_size: int | None) -> list[Pass]:
    """Returns the passes of one process; none crosses the border of a group.

    Args:
        settings: Batch, groups.
        share: Places in the batch that are the process's own.
        pass_size: Conversations of a pass, at most; None: the micro-batch. Changes the loss by rounding alone.
    """
    size = pass_size or settings.micro_batch or settings.batch_size
    group = group_size(settings)
    found: list[Pass] = []
    at = share.start
    while at < share.stop:
        end = min(at + size, share.stop, (at // group + 1) * group)
        found.append(Pass(places=range(at, end), group=at // group))
        at = end
    return found


def group_size(settings: StageConfig) -> int:
    """Returns the conversations over whose tokens a mean is taken."""
    if settings.loss_normalisation == "global_tokens":
        return settings.batch_size
    return settings.micro_batch or settings.batch_size


def scales(passes: Sequence[Pass], learnt: Sequence[int], num_groups: int, processes: Processes) -> list[float]:
    """Returns by what the sum of losses of each of this process's passes is divided.

    A group without a learnt token has no mean and is left out of the mean over groups.

    Args:
        passes: Of this process.
        learnt: Learnt tokens of each.
        num_groups: Of the whole batch.
        processes: All take part.

    Raises:
        DataError: Nothing in the whole batch is learnt.
    """
    # Alone, nothing is sent to the device: some have no float64, and reading it back would make a GPU wait.
    device = processes.device if processes.several else "cpu"
    counts = torch.zeros(num_groups, dtype=torch.float64, device=device)
    for item, count in zip(passes, learnt, strict=True):
        counts[item.group] += count
    totals = (processes.mean(counts) * processes.world_size).round().tolist()
    used = sum(total > 0 for total in totals)
    if not used:
        raise DataError("no token of this batch is learnt", where="training data", fix="check the label masks")
    return [max(1.0, totals[item.group]) * used for item in passes]


def num_learnt(batch: Spliced) -> int:
    """Returns the tokens that a layout teaches; the first position has nothing in front of it to be learnt from."""
    return int((batch.targets[:, 1:] != IGNORED).sum())


class TokenLoss(nn.Module):
    """The summed negative log-likelihood of the learnt tokens of a pass; what DistributedDataParallel sees.

    Contract: every parameter gets a gradient from every pass, be it zero: of a pass without images the projector too
    (see `Llava.embed`), since all processes must hand in the same gradients.
    """

    def __init__(self, model: Llava, *, autocast: bool) -> None:
        super().__init__()
        self.model, self.autocast = model, autocast

    def forward(self, batch: Spliced, visual: Tensor | None) -> Tensor:
        """Returns the sum over the learnt tokens; logits are made at their positions only."""
        wanted = batch.targets[:, 1:]
        columns = (wanted != IGNORED).any(0).nonzero().flatten()
        if not len(columns):
            columns = torch.zeros(1, dtype=torch.int64)  # its labels are ignored, so the sum is zero
        device = self.model.device
        low = torch.autocast(device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with low:
            logits = self.model(batch, visual, keep=columns)
            total = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                wanted[:, columns].flatten().to(logits.device),
                ignore_index=IGNORED,
                reduction="sum",
            )
        return total
