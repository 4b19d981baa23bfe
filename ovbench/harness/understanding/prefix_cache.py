"""Reading in pieces: what was read is kept as keys and values, and other rows go on from there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ovbench._base.lazy import require
from ovbench.harness.understanding.llava import Llava, Spliced

_NEEDED = ("inputs_embeds", "past_key_values", "position_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Keys and values of G rows; never changed."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # per layer [G, heads, P, width of a head]
    real: torch.Tensor  # bool [G, P]: positions in use

    @property
    def padded(self) -> int:
        """P."""
        return self.real.shape[1]


def new_cache(model: Llava) -> Any:
    """Returns transformers' growing cache, empty."""
    transformers = require("transformers", purpose="answering")
    return transformers.DynamicCache(config=model.language_model.config)


def keep(cache: Any, real: torch.Tensor) -> Kept:
    """Returns what a cache holds."""
    return Kept(layers=tuple((layer.keys, layer.values) for layer in cache.layers), real=real)


def continued(model: Llava, kept: Kept | None, rows: torch.Tensor) -> Any:
    """Returns a cache whose rows are copies of kept rows.

    Args:
        model: Whose cache it is.
        kept: What was read; None: nothing.
        rows: int64 [B], the kept row that each goes on from.
    """
    cache = new_cache(model)
    for number, (keys, values) in enumerate(kept.layers if kept is not None else ()):
        cache.update(keys.index_select(0, rows), values.index_select(0, rows), number)
    return cache


def embedded(
    model: Llava, rows: Sequence[Sequence[int]], visual: torch.Tensor | None, image_of: Sequence[int | None]
) -> torch.Tensor:
    """Returns the embeddings of rows of positions, padded on the right, `[B, T, width]`.

    Args:
        model: Embeds tokens and visual rows.
        rows: Positions: a token id, or -1 - j for visual row j.
        visual: `[images, N, C]`, or None.
        image_of: Per row, the number of its image.
    """
    count, width = len(rows), max(len(row) for row in rows)
    table = torch.full((count, width), model.pad, dtype=torch.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row)
    index = torch.arange(count * width).unflatten(0, (count, width))
    shown = table < 0
    seen: torch.Tensor | None = None
    if bool(shown.any()):
        assert visual is not None, "a row has visual positions and no image was given"
        has = shown.any(1).tolist()
        wanted = sorted({image for image, used in zip(image_of, has, strict=True) if used and image is not None})
        seen = visual[torch.tensor(wanted)]
        place = torch.tensor([wanted.index(image) if image in wanted else 0 for image in image_of])
        index = torch.where(shown, count * width + place[:, None] * visual.shape[1] - 1 - table, index)
    lengths = torch.tensor([len(row) for row in rows])
    batch = Spliced(ids=table.clamp(min=0), index=index, lengths=lengths, targets=torch.empty(0, dtype=torch.int64))
    return model.embed(batch, seen)


def read_prefixes(
    model: Llava,
    kept: Kept | None,
    rows: Sequence[Sequence[int]],
    visual: torch.Tensor | None,
    image_of: Sequence[int | None],
) -> Kept:
    """Returns the keys and values of `kept` (of one row) and of rows behind it.

    Args:
        model: Reads.
        kept: What stands in front of every row; without padding.
        rows: Positions, some of them possibly none.
        visual: `[images, N, C]`, or None.
        image_of: Per row, the number of its image.
    """
    device = model.device
    start = 0 if kept is None else kept.padded
    cache = continued(model, kept, torch.zeros(len(rows), dtype=torch.int64, device=device))
    front = torch.ones(len(rows), start, dtype=torch.bool, device=device)
    if not any(rows):
        return keep(cache, front)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    embeddings = embedded(model, rows, visual, image_of)
    own = torch.arange(embeddings.shape[1], device=device)
    real = torch.cat([front, own[None] < lengths[:, None]], dim=1)
    model.language_model(
        inputs_embeds=embeddings,
        attention_mask=real.long(),
        position_ids=(start + own)[None].expand(len(rows), -1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return keep(cache, real)


def obstacle(model: Llava) -> str | None:
    """Returns why keys and values cannot be shared in this language model; None where they can.

    Sharing relies on three things: positions that are given and not counted, attention that follows a mask, and keys
    that stay in the cache for good.
    """
    language_model = model.language_model
    names = inspect.signature(language_model.forward).parameters
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        return f"{type(language_model).__name__} takes no {', '.join(missing)}"
    if not cached(model):
        return f"{type(language_model).__name__} does not work with transformers' DynamicCache"
    kinds = {type(layer).__name__ for layer in new_cache(model).layers} - {"DynamicLayer"}
    if kinds:
        return f"its cache forgets or sums up what it read ({', '.join(sorted(kinds))}), as with a sliding window"
    if getattr(language_model.config, "alibi", False):
        return "it counts distances by the place in the cache (ALiBi)"
    attention = getattr(language_model.config, "_attn_implementation", None)
    if attention not in ("eager", "sdpa"):
        return f"attention '{attention}' takes no mask of its own per question; 'eager' and 'sdpa' do"
    return None


def cached(model: Llava) -> bool:
    """Returns whether the language model can go on from transformers' DynamicCache."""
    language_model = model.language_model
    if "past_key_values" not in inspect.signature(language_model.forward).parameters:
        return False
    return bool(getattr(language_model, "_supports_default_dynamic_cache", lambda: False)())
