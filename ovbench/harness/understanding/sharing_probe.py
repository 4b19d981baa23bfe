"""Tries on the language model itself whether reading together gives what reading alone does, before it is relied on.

Signatures and configurations do not say everything: code from outside may take a mask and leave it unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ovbench.harness.understanding.answer_requests import Ask, Group, Pack, Request
from ovbench.harness.understanding.conversation import IGNORED, Tokenized
from ovbench.harness.understanding.decoding import Answers, prefill
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.packed import answer_packed, model_dtype
from ovbench.harness.understanding.padded import answer_padded
from ovbench.harness.understanding.prefix_cache import read_prefixes

_SYSTEM = 3  # positions that all questions share
_GROUPS = ((20, (23, 29)), (11, (13,)))  # per group, positions that it shares and positions of each question
# Share of the spread of logits. Rounding stays far below, an unused mask or wrong positions far above.
_TOLERANCE, _TOLERANCE_LOW = 0.01, 0.25
# Results by model, packing, attention and precision: it is the code that is tried, so once is enough.
_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[str, str, torch.dtype], str | None]] = WeakKeyDictionary()


class _Listening(Answers):
    """Keeps the logits of the first new token and, after a given one, of the second."""

    def __init__(self, tokens: Sequence[int]) -> None:
        super().__init__([2] * len(tokens), ends=frozenset())
        self._tokens = tokens
        self.heard: list[torch.Tensor] = []

    def take(self, items: Sequence[int], logits: torch.Tensor) -> list[tuple[int, int]]:
        self.heard.append(logits)
        return list(enumerate(self._tokens)) if len(self.heard) == 1 else []


def sharing_fault(model: Llava, packing: str) -> str | None:
    """Returns how reading together differs from reading alone; None where it does not. Tried once per model.

    Args:
        model: In evaluation mode.
        packing: `packed` or `padded`.
    """
    key = (packing, str(getattr(model.language_model.config, "_attn_implementation", "")), model_dtype(model))
    tried = _TRIED.setdefault(model.language_model, {})
    if key not in tried:
        tried[key] = _try(model, packing)
    return tried[key]


@torch.inference_mode()
def _try(model: Llava, packing: str) -> str | None:
    vocab = model.language_model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocab, (count,), generator=generator).tolist())

    system = drawn(_SYSTEM)
    shared = [drawn(prefix - _SYSTEM) for prefix, _ in _GROUPS]
    own = [[drawn(size - prefix) for size in sizes] for prefix, sizes in _GROUPS]
    rows = [(*system, *front, *row) for front, rest in zip(shared, own, strict=True) for row in rest]
    tokens = drawn(len(rows))
    alone = [prefill(model, [_prompt(row)], None).logits for row in rows]
    alone += [prefill(model, [_prompt((*row, token))], None).logits for row, token in zip(rows, tokens, strict=True)]

    request = Request(image_id=None, question="", max_new_tokens=2)
    asks = [Ask(request=request, members=(place,), prompt=_prompt(row), options=()) for place, row in enumerate(rows)]
    each = iter(asks)
    groups = [tuple(next(each) for _ in sizes) for _, sizes in _GROUPS]
    answers = _Listening(tokens)
    kept = read_prefixes(model, None, [system], None, [None])
    no_image = [None] * len(groups)
    if packing == "packed":
        answer_packed(model, groups, kept, shared, own, None, no_image, answers)
    else:
        prefixes = read_prefixes(model, kept, shared, None, no_image)
        pack = Pack(
            groups=tuple(
                Group(image_id=None, prefix=prefix, asks=members)
                for (prefix, _), members in zip(_GROUPS, groups, strict=True)
            )
        )
        flat = [row for rest in own for row in rest]
        answer_padded(model, pack, prefixes, flat, None, [None] * len(flat), answers)
    wanted = torch.cat(alone)
    apart = float((torch.cat(answers.heard) - wanted).abs().max() / wanted.std())
    allowed = _TOLERANCE if model_dtype(model) == torch.float32 else _TOLERANCE_LOW
    if apart <= allowed:
        return None
    return f"logits of questions read together are off by {apart:.2g} of their spread ({allowed:g} is allowed)"


def _prompt(row: tuple[int, ...]) -> Tokenized:
    return Tokenized(ids=row, labels=(IGNORED,) * len(row), image_at=None)
