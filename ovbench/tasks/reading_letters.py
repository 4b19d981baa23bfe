"""Model text → the letter of an option, as each program that scores multiple choice reads it.

All functions return a capital letter or None, and know nothing of which option is right. Sources: lmms-eval 0.7.3
(tasks/seedbench, scienceqa, mmbench, _task_utils/mcq_extract.py); LLaVA (llava/eval/eval_science_qa.py,
scripts/convert_seed_for_submission.py); VLMEvalKit (vlmeval/utils/matching_util.py); cambrian
(eval/eval/seed/seed_test.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # Trap: the dot stands for any character, as in the original


def first_letter(raw: str) -> str:
    """Returns the stripped text, or its first character where it is longer: lmms-eval's reading of SEED-Bench.

    The case is kept. `(B)` gives `(` and `Certainly` gives `C`, as they do there
    (https://github.com/EvolvingLMMs-Lab/lmms-eval, tasks/seedbench/utils.py).
    """
    text = raw.strip()
    return text[0] if len(text) > 1 else text


def after_answer_is(raw: str) -> str:
    """Returns the first character of what follows the last "answer is" or "answer:", in lower case: cambrian's reading.

    Opening brackets in front, and one kind of closing mark behind, are taken off: `(b)` gives `b`, `[c]` gives `[`.
    """
    text = raw.lower().strip()
    for words in ("answer is", "answer is:", "answer:"):  # in this order: each is looked for in what the last one left
        text = text.rpartition(words)[2] if words in text else text
    return text.strip().rstrip(".").lstrip("(").rstrip(")")[:1]


def labelled_letter(raw: str, num_options: int) -> str | None:
    """Returns the letter that LLaVA's ScienceQA script finds: `B`, `B. …`, or one `The answer is B.` alone."""
    letters = LETTERS[:num_options]
    if len(raw) == 1 and raw in LETTERS[:5]:
        found = raw
    elif raw[1:3] == ". " and raw[0] in LETTERS[:5]:
        found = raw[0]
    else:
        said = _THE_ANSWER_IS.findall(raw)
        found = said[0] if len(said) == 1 else ""
    return found if found and found in letters else None


def letter_or_prefix(raw: str) -> str | None:
    """Returns the letter that lmms-eval finds on ScienceQA: the bare letter in any case, or a capital before a dot."""
    text = raw.strip()
    if len(text) == 1 and text.isascii() and text.isalpha():
        return text.upper()
    return text[0] if text[1:2] == "." and "A" <= text[0] <= "Z" else None


def one_letter_word(raw: str, options: Sequence[str]) -> str | None:
    """Returns the letter or the option that VLMEvalKit infers without a language model ("exact matching").

    A letter that alone of all letters stands as a word, among the last five; else the one option whose text is in the
    answer, where the answer is no longer than twice all options. A refusal is no answer.
    """
    refusals = (
        "Failed to obtain answer via API",
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided",
        "Cannot determine the answer",
    )
    if any(refusal in raw for refusal in refusals[1:]):
        return None
    letters = LETTERS[: len(options)]
    if refusals[0] not in raw:
        words = raw.translate(str.maketrans(".()[],:;!*#{}", " " * 13)).split()
        found = [letter for letter in letters if letter in words]
        if len(found) == 1 and words.index(found[0]) > len(words) - 5:
            return found[0]
        if not found and "Z" in words:  # `Z` is its word for none of the options
            return None
    if len(raw) > 2 * sum(map(len, options)):
        return None
    return _only_text(raw, options)


def _only_text(raw: str, options: Sequence[str]) -> str | None:
    text = raw.lower()
    found = [letter for letter, option in zip(LETTERS, options, strict=False) if option.lower() in text]
    return found[0] if len(found) == 1 else None


# What may stand around a letter, in the order in which lmms-eval's MMBench script tries it.
_AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."),
    (":", ")"), (":", ")."),
)  # fmt: skip


def prefetched_letter(raw: str, options: Sequence[str]) -> str | None:
    """Returns the letter or option that lmms-eval's MMBench script finds before it would ask a language model."""
    words = raw.split()
    letters = LETTERS[:5]
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and not ("A" in words and len(words) > 3):  # `A` in a sentence is taken for an article
        return found[0]
    for before, behind in _AROUND:
        found = [letter for letter in letters if f"{before}{letter}{behind}" in words]
        if len(found) == 1:
            return found[0]
    return _only_text(raw, options)


_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def ranked_letter(raw: str, num_options: int) -> str | None:
    """Returns the letter that lmms-eval's general extraction ranks first: MMBench "static" where no rule has found one.

    How a letter stands decides, from the strongest: at the start, at the end, after a phrase such as "the answer is",
    `(A)`, `A.`, `A:`, `A)`, before a blank; of equal ones the last. Without any of these the last letter in the text.
    """
    text = raw.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare, text = text.strip(), f" {text} "
    lowered = text.lower()
    letters = LETTERS[:num_options]
    ranks: list[tuple[int, int, str]] = []  # (strength, place, letter)
    forms: Mapping[str, int] = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}
    for letter in letters:
        for form, strength in forms.items():
            if (place := text.rfind(form.format(letter))) >= 0:
                ranks.append((strength, place, letter))
        for phrase in _PHRASES:
            start = lowered.find(phrase)
            if start >= 0 and (place := text.find(letter, start + len(phrase))) >= 0:
                ranks.append((7, place, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            ranks.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            ranks.append((9, len(text) - 1, letter))
    if not ranks:
        ranks = [(0, place, letter) for letter in letters if (place := text.rfind(letter)) >= 0]
    # Equal strength and place: the original's sort is stable and reversed, so that the first letter found stays first.
    return max(ranks, key=lambda rank: rank[:2])[2] if ranks else None
