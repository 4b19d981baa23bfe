"""Questions and options → ids, as the model's template and tokenizer have them."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench._base.errors import DataError
from ovbench.harness.understanding.conversation import Tokenized, question_prompt, tokenize
from ovbench.harness.understanding.llava import Llava

# What short answers to closed questions begin with, in the two spellings that tokenizers tell apart.
CLOSING_WORDS = ("Yes", "No", "yes", "no", "A", "B", "C", "D", "E", "F")


def prompt_of(model: Llava, question: str, *, has_image: bool) -> tuple[str, Tokenized]:
    """Returns the text after which the assistant answers, and its ids."""
    text = question_prompt(model.form, question, has_image=has_image)
    return text, tokenize(model.tokenizer, text, has_image=has_image)


def option_ids(
    model: Llava, text: str, prompt: Tokenized, options: Sequence[str], *, where: str
) -> tuple[tuple[int, ...], ...]:
    """Returns the ids of each option as the continuation of the prompt.

    Args:
        model: Whose tokenizer reads.
        text: The prompt.
        prompt: Its ids.
        options: The texts that may follow.
        where: For messages.

    Raises:
        DataError: An option has no token of its own.
    """
    found: list[tuple[int, ...]] = []
    for option in options:
        full = f"{text} {option}"
        whole = tokenize(model.tokenizer, full, [(len(text), len(full))], has_image=prompt.image_at is not None)
        start = next((place for place, label in enumerate(whole.labels) if label >= 0), len(whole.ids))
        if whole.ids[:start] != prompt.ids or start == len(whole.ids):
            raise DataError(
                f"option '{option}' does not continue the prompt in this tokenizer",
                where=where,
                fix="give options that begin with a letter or digit",
            )
        found.append(whole.ids[start:])
    return tuple(found)


def closing_ids(model: Llava) -> frozenset[int]:
    """Returns the tokens that are a whole short answer: those of `CLOSING_WORDS` that are one token.

    Looked up by tokenizing, because every vocabulary numbers them differently (3869, 1939 … in Vicuna's).
    """
    text, prompt = prompt_of(model, "?", has_image=False)
    unknown = model.tokenizer.unk_token_id
    found: set[int] = set()
    for word in CLOSING_WORDS:
        whole = tokenize(model.tokenizer, f"{text} {word}", has_image=False).ids
        if len(whole) == len(prompt.ids) + 1 and whole[-1] != unknown:
            found.add(whole[-1])
    return frozenset(found)
