"""Word-level tokenizer of the miniature language model, written in transformers' folder layout.

One id per word. Text is lower-cased and punctuation is split off, while hyphens stay inside words (`top-left`); the
role marks of the conversation templates are single tokens. White space, line breaks included, has no token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir, write_json

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
ROLES = ("USER:", "ASSISTANT:")
PUNCTUATION = ".,:;?!"


def vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Returns word → id: padding, begin, end, unknown, the two role marks, then the words in order.

    Raises:
        ConfigError: A word occurs twice or is not lower-case.
    """
    entries = (PAD, BOS, EOS, UNK, *ROLES, *words)
    table = {word: number for number, word in enumerate(entries)}
    if len(table) != len(entries):
        twice = sorted({word for word in entries if entries.count(word) > 1})
        raise ConfigError(f"words occur twice: {', '.join(twice)}", where="vocabulary")
    for word in entries[6:]:
        if word != word.lower() or not word.strip():
            raise ConfigError(f"'{word}' is not a lower-case word", where="vocabulary")
    return table


def encode_words(text: str, table: Mapping[str, int]) -> list[int]:
    """Returns the ids of plain text (no role marks); the tokenizer gives the same, about 50 times slower."""
    for mark in PUNCTUATION:
        text = text.replace(mark, f" {mark} ")
    return [table.get(word, table[UNK]) for word in text.lower().split()]


def write_tokenizer(folder: Path, words: Iterable[str], *, max_length: int) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Args:
        folder: Created when absent.
        words: The vocabulary without special tokens and role marks.
        max_length: Longest sequence that the model was made for.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel

    table = vocabulary(words)
    tokenizer = Tokenizer(WordLevel(table, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(f"[{PUNCTUATION}]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, table[BOS])]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (PAD, BOS, EOS, UNK)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ROLES])
    make_dir(folder)
    content = json.loads(tokenizer.to_str())
    write_json(folder / "tokenizer.json", content)
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD}
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    write_json(folder / "special_tokens_map.json", special)
