"""A fast tokenizer of a Llama's `tokenizer.model`, made with the sentencepiece library alone.

Vicuna and LLaVA-1.5 are published with that file only. transformers converts it through protobuf, whose version must
fit the one that sentencepiece was built with; this way needs no protobuf. The result is held against sentencepiece.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.lazy import require
from ovbench.encoders.modeling.sources import read_json_file

MODEL_FILE = "tokenizer.model"
_BLANK = "▁"
_PROBES = (
    "USER: <image>\nWhat colour is the kettle?\nAnswer the question using a single word or phrase. ASSISTANT: Red",
    "A. One\nB. Two\nC. Three",
    "two  blanks, a\ttab, 12,345.60 and unusual ones: ÄÖß naïve 猫 🐈 \u200b",
    "The quick brown fox jumps over the lazy dog; she sells sea shells (by the sea-shore).",
)


def convert(folder: Path) -> Any:
    """Returns the fast tokenizer of a folder that has `tokenizer.model` and, perhaps, tokenizer_config.json.

    Raises:
        ConfigError: The file is of another kind of model than Llama's, or cannot be read.
        DependencyError: sentencepiece is not installed.
    """
    sentencepiece = require("sentencepiece", purpose=f"the tokenizer of {folder}")
    transformers = require("transformers", purpose="understanding")
    path = folder / MODEL_FILE
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise _unusable(path, f"sentencepiece cannot read it ({str(error).splitlines()[0]})") from error
    stated = folder / "tokenizer_config.json"
    settings = read_json_file(stated) if stated.is_file() else {}
    inner = _backend(pieces, path, first_only=not settings.get("legacy", True))
    marks = {
        name: _text(settings.get(name)) or (pieces.id_to_piece(number) if number >= 0 else None)
        for name, number in (
            ("bos_token", pieces.bos_id()),
            ("eos_token", pieces.eos_id()),
            ("unk_token", pieces.unk_id()),
            ("pad_token", pieces.pad_id()),
        )
    }
    from tokenizers import AddedToken

    inner.add_special_tokens([AddedToken(mark, normalized=False) for mark in dict.fromkeys(marks.values()) if mark])
    added = {int(number): _text(entry) for number, entry in settings.get("added_tokens_decoder", {}).items()}
    for number, mark in sorted(added.items()):
        if mark and number >= pieces.get_piece_size():
            inner.add_special_tokens([AddedToken(mark, normalized=False)])
    if marks["bos_token"] and settings.get("add_bos_token", True):
        from tokenizers import processors

        begin = str(marks["bos_token"])
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, inner.token_to_id(begin))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=settings.get("chat_template"),
        model_max_length=settings.get("model_max_length") or int(1e30),
        **{name: mark for name, mark in marks.items() if mark},
    )


def _backend(pieces: Any, path: Path, *, first_only: bool) -> Any:
    """Returns the tokenizer that cuts text as sentencepiece does.

    Args:
        pieces: sentencepiece's own.
        path: The file, for messages.
        first_only: Put a blank before the text alone, and not behind each special token too (`legacy: false`).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    size = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(number): number for number in range(size)}
    scores = {number: pieces.get_score(number) for number in range(size) if not _is_special(pieces, number)}
    # In a BPE model a score is minus the rank of a merge; elsewhere it is a likelihood.
    if not all(score == int(score) for score in scores.values()):
        raise _unusable(path, "it is no BPE model")
    merges: list[tuple[str, str]] = []
    for number in sorted(scores, key=lambda number: (-scores[number], number)):
        piece = pieces.id_to_piece(number)
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    inner = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=any(pieces.is_byte(number) for number in range(size)),
        )
    )
    if first_only:
        # Trap: unlike sentencepiece, it puts no blank before a text that begins with one, as in transformers' own fast
        # tokenizers of these models; no template begins a piece of text so.
        inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="first", split=False)
    else:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for probe in _PROBES:
        if inner.encode(probe, add_special_tokens=False).ids != pieces.encode(probe):
            raise _unusable(path, f"it cuts {probe[:20]!r}… otherwise than Llama's does")
    return inner


def _is_special(pieces: Any, number: int) -> bool:
    return pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number) or pieces.is_unused(number)


def _text(entry: Any) -> str | None:
    """Returns a token that a configuration writes as a text or as a mapping."""
    return entry.get("content") if isinstance(entry, Mapping) else entry


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"the '{path.name}' cannot be turned into a fast tokenizer: {why}",
        where=str(path),
        fix="put a tokenizer.json beside it, as `save_pretrained` of a fast tokenizer writes it",
    )
