"""Parameters and operations of a language model, from its configuration alone; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class LlmShape:
    """A decoder with gated feed-forward layers: Llama, Vicuna, Qwen2 and their like."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False  # input and output embeddings are one table
    qkv_bias: bool = False

    @property
    def num_params(self) -> int:
        """All parameters."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * wide + 2 * self.hidden * narrow
        bias = wide + 2 * narrow if self.qkv_bias else 0
        block = attention + bias + 3 * self.hidden * self.intermediate + 2 * self.hidden
        tables = 1 if self.tied else 2
        return tables * self.vocabulary * self.hidden + self.layers * block + self.hidden

    def forward_flops(self, positions: int, *, logits_at: int | None = None) -> int:
        """Returns the operations of one sequence, a multiplication and an addition being two.

        Args:
            positions: Text and visual positions.
            logits_at: Positions whose logits are made; None: all.
        """
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        matrices = 2 * self.hidden * wide + 2 * self.hidden * narrow + 3 * self.hidden * self.intermediate
        linear = 2 * self.layers * matrices * positions
        attention = 2 * self.layers * wide * positions * (positions + 1)  # causal: half of all pairs, two products
        made = positions if logits_at is None else logits_at
        return linear + attention + 2 * self.hidden * self.vocabulary * made


# The published configurations of the protocols' language models, whose files need not be here for a plan.
KNOWN: Mapping[str, LlmShape] = MappingProxyType(
    {
        "lmsys/vicuna-7b-v1.5": LlmShape(
            hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, intermediate=11008, vocabulary=32000
        ),
        "meta-llama/Meta-Llama-3-8B-Instruct": LlmShape(
            hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256
        ),
        "Qwen/Qwen2.5-0.5B-Instruct": LlmShape(
            hidden=896,
            layers=24,
            heads=14,
            kv_heads=2,
            head_dim=64,
            intermediate=4864,
            vocabulary=151936,
            tied=True,
            qkv_bias=True,
        ),
    }
)


def llm_shape(name: str) -> LlmShape | None:
    """Returns the shape of a language model.

    Args:
        name: A folder with config.json, or a hub id.

    Returns:
        None where neither a configuration is here nor the hub id is one of a protocol.

    Raises:
        DataError: The configuration cannot be read, or lacks a size.
    """
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        return KNOWN.get(name)
    config: Mapping[str, Any] = read_json(path)
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return LlmShape(
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the configuration lacks a size: {error}", where=str(path)) from None
