"""Model text → the form in which it is compared with reference answers, as each benchmark's script makes it.

Sources: EvalAI's answer processor, as LLaVA (llava/eval/m4c_evaluator.py), lmms-eval and VLMEvalKit use it, after
https://visualqa.org/evaluation.html; GQA's eval.py (https://cs.stanford.edu/people/dorarad/gqa/evaluate.html) behind
LLaVA's scripts/convert_gqa_for_eval.py; ChartQA (arXiv 2203.10244, section 5.1); OCRBench (arXiv 2305.07895).
"""

from __future__ import annotations

import re
import string
from typing import Literal

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# Trap: the original hands `re.UNICODE`, which is 32, to `sub` where it takes the number of replacements.
_MAX_FULL_STOPS = 32

_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
# The contractions of https://visualqa.org/evaluation.html as they should be written. A word that lacks one of the
# apostrophes becomes the whole form. (I'm, I've and I'd've stand there with a capital, which no lowered word has.)
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's "
    "there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, mark in enumerate(word)
    if mark == "'"
} | {"somebody'd": "somebodyd"}  # the one entry that goes the other way, kept as it is


def settle_punctuation(text: str) -> str:
    """Returns a text as VQA's evaluation settles its punctuation.

    A mark that stands next to a blank anywhere in the text is deleted everywhere, any other becomes a blank; where a
    comma stands between digits all marks are deleted. A full stop goes unless a digit follows it.
    """
    number = _NUMBER_COMMA.search(text) is not None
    settled = text
    for mark in _MARKS:
        loose = number or f"{mark} " in text or f" {mark}" in text
        settled = settled.replace(mark, "" if loose else " ")
    return _FULL_STOP.sub("", settled, count=_MAX_FULL_STOPS)


def _settle_words(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_normal(text: str) -> str:
    """Returns a text as EvalAI's processor normalises it: case, punctuation, numbers, articles."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _settle_words(settle_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def vqa_normal_vlmevalkit(text: str) -> str:
    """Returns a text as VLMEvalKit normalises it: as EvalAI, but commas, question marks and `'s` are not cut first."""
    return _settle_words(settle_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def without_final_dots(text: str) -> str:
    """Returns the text in lower case without dots at its end: how LLaVA hands answers to GQA's script."""
    return text.rstrip(".").lower()


def lowered(text: str) -> str:
    """Returns the stripped text in lower case: VLMEvalKit's accuracy on GQA."""
    return text.strip().lower()


def without_punctuation(text: str) -> str:
    """Returns the text in lower case without ASCII punctuation: lmms-eval's exact match on GQA."""
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def unfolded(text: str) -> str:
    """Returns the text with full-width ASCII and the ideographic blank as their plain characters."""
    wide = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
    return text.translate(wide)


def ocr_normal(text: str) -> str:
    """Returns a text as OCRBench compares it: lower case, stripped, line breaks as blanks."""
    return text.lower().strip().replace("\n", " ")


def formula_normal(text: str) -> str:
    """Returns a formula as OCRBench compares those of HME100k: no blanks, no line breaks, the case kept."""
    return text.strip().replace("\n", " ").replace(" ", "")


Commas = Literal["text", "number"]
Percent = Literal["fraction", "number", "text"]


def chart_number(text: str, *, commas: Commas = "text", percent: Percent = "fraction") -> float | None:
    """Returns the number that a chart answer is; None: it is none.

    Args:
        text: Stripped.
        commas: `text`: "1,000" is no number, as in the published scripts; `number`: it is 1000.
        percent: What "10%" is. `fraction`: 0.1, as in the published scripts, so that it is not 10; `number`: 10;
            `text`: no number.
    """
    if commas == "number" and re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?%?", text):
        text = text.replace(",", "")
    scale = 1.0
    if text.endswith("%") and percent != "text":
        text, scale = text.rstrip("%"), (100.0 if percent == "fraction" else 1.0)
    try:
        return float(text) / scale
    except ValueError:
        return None


def relaxed_match(
    said: str, reference: str, *, tolerance: float = 0.05, commas: Commas = "text", percent: Percent = "fraction"
) -> bool:
    """Whether a chart answer is right: within 5% where both are numbers, else equal but for the case.

    ChartQA, section 5.1, as the programs have it: the reference 0 is compared as text, because nothing is within 5% of
    it.
    """
    number = chart_number(said, commas=commas, percent=percent)
    wanted = chart_number(reference, commas=commas, percent=percent)
    if number is not None and wanted:
        return abs(number - wanted) / abs(wanted) <= tolerance
    return said.lower() == reference.lower()
