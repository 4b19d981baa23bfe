"""Whether stage 1 has taught the projector anything, asked before stage 2 spends days of GPU time.

Three looks: the training loss, greedy captions of images that were held out, and how much better the held-out captions
are foretold with their own images than with other ones and with none. The bounds are ours; a run that fails one may
still be sound, which is why the numbers are in the message and `mode: warn` goes on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ovbench._base.errors import DataError, OvbenchError
from ovbench._base.files import write_json
from ovbench._base.seeding import numpy_generator
from ovbench.harness.understanding.config import GateConfig
from ovbench.harness.understanding.conversation import IMAGE_MARK, Conversation, Tokenized, tokenize
from ovbench.harness.understanding.data import TokenSource, TrainingData, tokenize_conversation
from ovbench.harness.understanding.decoding import Answers, greedy, prefill, text_of
from ovbench.harness.understanding.llava import Llava, splice
from ovbench.harness.understanding.losses import TokenLoss, num_learnt

log = logging.getLogger(__name__)
_BATCH = 16  # images of a pass; rows do not depend on their neighbours
_END_SHARE = 0.1  # of the log rows: the end of the training
_SHOWN = 8  # captions in the report


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """What was found after stage 1."""

    mode: str
    num_images: int
    first_loss: float  # of the first log row, nats a token
    final_loss: float  # mean of the last tenth of the log
    held_out_loss: float  # of the held-out captions with their own images
    shuffled_loss: float  # with the image of another one
    blind_loss: float  # with no image
    share_empty: float  # of the greedy captions
    distinct_captions: float  # different captions per image
    distinct_bigrams: float  # different word pairs per word pair
    captions: tuple[str, ...]  # the first few
    failures: tuple[str, ...]  # a sentence each; none: passed

    @property
    def passed(self) -> bool:
        """Whether stage 2 may begin."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        names = (name for name in self.__slots__ if name not in ("captions", "failures"))
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        return found | {"captions": list(self.captions), "failures": list(self.failures), "passed": self.passed}

    def enforce(self, *, where: str = "") -> None:
        """Lets stage 2 begin, warns, or refuses, as the mode says.

        Raises:
            OvbenchError: A bound was missed, and the mode is `refuse`.
        """
        if self.passed:
            return
        what = f"stage 1 did not pass the gate: {'; '.join(self.failures)}"
        if self.mode == "warn":
            log.warning("%s (gate: warn, so stage 2 begins)", what)
            return
        raise OvbenchError(
            what,
            where=where,
            fix="look at the log and the captions of stage 1; to go on all the same, set gate: warn in the protocol",
        )


def held_out_rows(size: int, config: GateConfig) -> np.ndarray:
    """Returns the conversations of stage 1 that only the gate sees, int64, rising; the same for every seed.

    Raises:
        DataError: There would be none left to train on.
    """
    if config.num_held_out >= size:
        raise DataError(
            f"{config.num_held_out} of {size} conversations cannot be held out for the gate",
            where="understanding.gate.num_images",
            fix="hold out fewer, or set gate: off",
        )
    return np.sort(numpy_generator(0, "llava/gate").permutation(size)[: config.num_held_out])


def training_rows(size: int, config: GateConfig) -> np.ndarray:
    """Returns the conversations of stage 1 that are trained on, int64, rising."""
    return np.setdiff1d(np.arange(size), held_out_rows(size, config), assume_unique=True)


def check_stage1(
    model: Llava,
    tokens: TokenSource,
    data: TrainingData,
    *,
    log_rows: Sequence[Mapping[str, Any]],
    config: GateConfig,
    strict_reference: bool = True,
    report: Path | None = None,
) -> GateReport:
    """Looks at what stage 1 has left.

    Args:
        model: With the weights of stage 1 and its template, in evaluation mode.
        tokens: As in the training.
        data: As in the training.
        log_rows: The rows of `stage1.log.jsonl`.
        config: Bounds.
        strict_reference: As in the recipe.
        report: Where the report is written as JSON; None: nowhere.

    Returns:
        The numbers, and what is wrong with them; `enforce` acts on it.

    Raises:
        DataError: There is no log, or no held-out conversation with an image.
    """
    if not log_rows:
        raise DataError("stage 1 has left no log", where="stage1.log.jsonl", fix="train stage 1 again")
    items = [data.conversation(1, int(row), 0) for row in held_out_rows(data.size(1), config)]
    items = [item for item in items if item.image_id is not None]
    if len(items) < 2:
        raise DataError("the gate needs two held-out conversations with images", where="understanding.gate")
    image_ids = [cast(str, item.image_id) for item in items]
    with torch.inference_mode():
        own = _held_out_loss(model, tokens, items, image_ids, strict_reference)
        shuffled = _held_out_loss(model, tokens, items, [*image_ids[1:], image_ids[0]], strict_reference)
        blind = _held_out_loss(model, tokens, items, None, strict_reference)
        captions = _captions(model, tokens, image_ids, config.max_new_tokens)
    losses = [float(row["loss"]) for row in log_rows]
    end = losses[-max(1, math.ceil(_END_SHARE * len(losses))) :]
    numbers: dict[str, Any] = {
        "first_loss": losses[0],
        "final_loss": sum(end) / len(end),
        "held_out_loss": own,
        "shuffled_loss": shuffled,
        "blind_loss": blind,
        "share_empty": sum(not caption for caption in captions) / len(captions),
        "distinct_captions": len(set(captions)) / len(captions),
        "distinct_bigrams": distinct_share(captions),
    }
    found = GateReport(
        mode=config.mode,
        num_images=len(items),
        captions=tuple(captions[:_SHOWN]),
        failures=tuple(failures_of(numbers, config)),
        **numbers,
    )
    if report is not None:
        write_json(report, found.to_json())
    return found


def failures_of(found: Mapping[str, float], config: GateConfig) -> list[str]:
    """Returns a sentence for every bound that the numbers of a report miss; a number that is NaN misses its own."""
    first, final, own = found["first_loss"], found["final_loss"], found["held_out_loss"]
    failures: list[str] = []
    if not final <= config.max_loss:
        failures.append(f"the loss ended at {final:.3f}, above {config.max_loss:g}")
    if not final <= (1 - config.min_drop) * first:
        failures.append(f"the loss fell from {first:.3f} to {final:.3f}, by less than {config.min_drop:.0%}")
    for name, of in (("shuffled", "the images of others"), ("blind", "no images")):
        gain = found[f"{name}_loss"] - own
        if not gain >= config.min_gain:
            failures.append(
                f"own images help by {gain:.3f} nats a token over {of}, less than {config.min_gain:g} "
                f"(losses {own:.3f} and {found[f'{name}_loss']:.3f})"
            )
    if found["share_empty"] > config.max_empty:
        failures.append(f"{found['share_empty']:.0%} of the captions are empty, more than {config.max_empty:.0%}")
    for name, of, least in (
        ("distinct_captions", "captions", config.min_distinct_captions),
        ("distinct_bigrams", "word pairs", config.min_distinct_bigrams),
    ):
        if found[name] < least:
            failures.append(f"{found[name]:.0%} of the {of} differ, less than {least:.0%}")
    return failures


def distinct_share(texts: Sequence[str], size: int = 2) -> float:
    """Returns the share of different ones among all runs of `size` words; 1 where there is none.

    Source: distinct-n of Li et al., A Diversity-Promoting Objective Function (arXiv 1510.03055), section 5.
    """
    runs = [tuple(words[at : at + size]) for words in map(str.split, texts) for at in range(len(words) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def _held_out_loss(
    model: Llava,
    tokens: TokenSource,
    items: Sequence[Conversation],
    image_ids: Sequence[str] | None,
    strict_reference: bool,
) -> float:
    """Returns the mean over all learnt tokens; without images the marks are left out and the captions stay."""
    loss = TokenLoss(model, autocast=False)
    total, count = 0.0, 0
    for start in range(0, len(items), _BATCH):
        part = items[start : start + _BATCH]
        samples = [
            tokenize_conversation(item, model.tokenizer, model.form, strict_reference=strict_reference) for item in part
        ]
        visual = None if image_ids is None else tokens(image_ids[start : start + _BATCH])
        if visual is None:
            samples = [_without_image(sample) for sample in samples]
        num_visual = 0 if visual is None else visual.shape[1]
        batch = splice(samples, num_visual=num_visual, pad=model.pad, max_length=model.max_length)
        total += float(loss(batch, visual))
        count += num_learnt(batch)
    if not count:
        raise DataError("no token of the held-out captions is learnt", where="understanding.gate")
    return total / count


def _without_image(sample: Tokenized) -> Tokenized:
    return Tokenized(ids=sample.ids, labels=sample.labels, image_at=None)


def _captions(model: Llava, tokens: TokenSource, image_ids: Sequence[str], max_new_tokens: int) -> list[str]:
    """Returns greedy captions in the template of stage 1, up to its stop mark."""
    stop = model.form.stop
    prompt = tokenize(model.tokenizer, IMAGE_MARK, has_image=True)
    found: list[str] = []
    for start in range(0, len(image_ids), _BATCH):
        part = image_ids[start : start + _BATCH]
        state = prefill(model, [prompt] * len(part), tokens(part))
        answers = Answers([max_new_tokens] * len(part), ends=model.end_ids)
        greedy(model, state, answers)
        found += [text_of(model, ids).split(stop)[0].strip() for ids in answers.ids]
    return found
