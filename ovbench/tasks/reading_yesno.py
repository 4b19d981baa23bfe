"""Model text → yes, no or nothing, as each program that scores POPE or MME reads it.

Sources: POPE's evaluate.py (https://github.com/AoiDragon/POPE) and LLaVA's eval_pope.py, which has the same rule; MME's
eval_tool/calculation.py; lmms-eval 0.7.3, tasks/pope/utils.py and tasks/mme/utils.py; VLMEvalKit,
vlmeval/dataset/utils/yorn.py; cambrian, eval/eval/pope/pope_test.py.
"""

from __future__ import annotations

from ovbench.tasks.reading_text import settle_punctuation

YES_NO = ("yes", "no")
_PREFIX = 4  # characters that MME's script looks at


def pope_official(raw: str) -> str:
    """Returns `no` where a word of the first sentence is No, no or not, else `yes`: POPE's evaluate.py.

    An empty text, "NO", "Nope" and "There isn't" are `yes` there.
    """
    words = raw.split(".")[0].replace(",", "").split(" ")  # Contract: on the blank alone, `\nno` is not a `no`
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def bare_word(raw: str) -> str | None:
    """Returns yes or no where the stripped text is that word in any case and nothing else: lmms-eval on POPE."""
    text = raw.lower().strip()
    return text if text in YES_NO else None


def one_word(raw: str) -> str | None:
    """Returns the one of yes and no that stands as a word; None where neither does, or both: VLMEvalKit's reading."""
    words = settle_punctuation(raw.lower()).split()
    found = [word for word in YES_NO if word in words]
    return found[0] if len(found) == 1 else None


def first_word(raw: str) -> str | None:
    """Returns yes or no where the first word is that, final `.`, `:` and `,` aside: cambrian on POPE.

    Cambrian's script stops at an empty text; here it is no answer.
    """
    words = raw.lower().split()
    word = words[0].rstrip(".:,") if words else ""
    return word if word in YES_NO else None


def _in_prefix(text: str) -> str | None:
    return next((word for word in YES_NO if word in text[:_PREFIX]), None)  # `yes` is looked for first


def mme_official(raw: str) -> str | None:
    """Returns yes or no where it stands within the first four characters: MME's calculation.py.

    Line breaks are deleted, as its readme asks; blanks in front count as characters. `Snow` is `no`, `y` is nothing.
    """
    return _in_prefix(raw.lower().replace("\r", "").replace("\n", ""))


def mme_without_dots(raw: str) -> str | None:
    """Returns yes or no as lmms-eval reads MME: stripped, without any dot, `y` and `n` count, else the prefix rule."""
    text = raw.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text)
    return _in_prefix(text)
