"""Our questions in the columns that lmms-eval's tasks read, and which of its numbers stands beside which of ours.

Knows lmms-eval's files by name and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovbench._base.errors import DataError
from ovbench.tasks.answers import LETTERS
from ovbench.tasks.base import Sample, TaskSpec

Doc = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two numbers that are meant to say the same."""

    theirs: str  # metric of lmms-eval
    ours: str = ""  # key of our scorer; empty: the task's headline
    unit: float = 1.0  # theirs is divided by it
    why: str = ""  # where the two are known to differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One task of lmms-eval."""

    yaml: str  # its file below lmms_eval/tasks; empty: none, the task is `config`
    doc: Callable[[Sample], Doc]  # all columns but the picture
    pairs: tuple[Pair, ...]
    listed: bool = False  # the column `image` is a list
    own_prompt: bool = False  # our prompt in place of the task's
    unfit: Callable[[Sequence[Sample]], str] = lambda samples: ""  # why it cannot score these; empty: it can
    config: Mapping[str, Any] | None = None


def _column(sample: Sample, name: str, default: str | None = None) -> str:
    found = sample.extra.get(name, default)
    if found is None:
        raise DataError(
            f"the column '{name}', which lmms-eval's task reads, is not in the data", where=f"question {sample.item_id}"
        )
    return found


def _letter(sample: Sample) -> str:
    if sample.answer not in sample.options:
        raise DataError(f"the answer '{sample.answer}' is not an option", where=f"question {sample.item_id}")
    return LETTERS[sample.options.index(sample.answer)]


def _pope(sample: Sample) -> Doc:
    return {
        "question_id": sample.item_id,
        "question": sample.question,
        "answer": sample.answer,
        "image_source": sample.image_id,
        "category": sample.group,
    }


def _seed(sample: Sample) -> Doc:
    choices = {f"choice_{letter.lower()}": text for letter, text in zip(LETTERS, sample.options, strict=False)}
    return {
        "question_id": sample.item_id,
        "question": sample.question,
        **choices,
        "answer": _letter(sample),
        "data_type": "image",
        "data_id": sample.image_id,
    }


def _not_four(samples: Sequence[Sample]) -> str:
    other = [sample for sample in samples if len(sample.options) != 4]
    return f"it asks with four options, and question {other[0].item_id} has {len(other[0].options)}" if other else ""


def _mme(sample: Sample) -> Doc:
    # Both questions of a picture share one id in the real table, and are paired by it.
    question_id = sample.extra.get("question_id", sample.image_id)
    return {
        "question_id": question_id,
        "question": sample.question,
        "answer": sample.answer.capitalize(),
        "category": sample.group,
    }


def _unpaired(samples: Sequence[Sample]) -> str:
    counts: dict[tuple[str, str], int] = {}
    for sample in samples:
        key = (sample.group, str(_mme(sample)["question_id"]))
        counts[key] = counts.get(key, 0) + 1
    alone = [name for (_, name), count in counts.items() if count != 2]
    return f"it needs both questions of each picture, and '{alone[0]}' has not two" if alone else ""


def _open(sample: Sample) -> Doc:
    return {
        "question_id": sample.item_id,
        "question": sample.question,
        "answer": sample.answer,
        "answers": list(sample.answers or (sample.answer,)),
        "ocr_tokens": [],
    }


def _scienceqa(sample: Sample) -> Doc:
    return {
        "question": sample.question,
        "choices": list(sample.options),
        "answer": LETTERS.index(_letter(sample)),
        "hint": sample.extra.get("hint", ""),
    }


def _mmbench(sample: Sample) -> Doc:
    index = _column(sample, "index", sample.item_id)
    if not index.isdecimal():
        raise DataError(f"the index '{index}' is not a number", where=f"question {sample.item_id}")
    missing = "nan"  # what the real table holds where there is no option and no hint
    options = dict(zip("ABCDE", (*sample.options, *[missing] * 5), strict=False))
    return {
        "index": int(index),
        "question": sample.question,
        "hint": sample.extra.get("hint") or missing,
        "answer": _letter(sample),
        **options,
        "category": sample.extra.get("category") or sample.group,
        "L2-category": sample.extra.get("l2_category") or sample.extra.get("L2-category") or sample.group,
        "source": sample.extra.get("source", ""),
        "split": sample.extra.get("split", "dev"),
    }


def _chartqa(sample: Sample) -> Doc:
    kind = sample.extra.get("type") or sample.group
    return {
        "question": sample.question,
        "answer": sample.answer,
        "type": "human_test" if kind.startswith("human") else "augmented_test",
    }


def _ocrbench(sample: Sample) -> Doc:
    return {
        "dataset": sample.extra.get("dataset", ""),
        "question": sample.question,
        "question_type": sample.group,
        "answer": list(sample.answers or (sample.answer,)),
    }


_OCR_TYPES = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction", "Handwritten Mathematical Expression Recognition",
)  # fmt: skip


def _unknown_type(samples: Sequence[Sample]) -> str:
    strange = [sample.group for sample in samples if sample.group not in _OCR_TYPES]
    return f"its total has no place for questions of the type '{strange[0]}'" if strange else ""


_EXACT = "lmms-eval wants exactly yes or no; ours reads the answer as the task's parser says"
_DROPPED = "lmms-eval leaves answers that are neither yes nor no out of its counts; ours decides for each"
_POPE_PAIRS = (
    Pair(theirs="pope_accuracy", ours="accuracy", why=_EXACT),
    Pair(theirs="pope_precision", ours="precision", why=_DROPPED),
    Pair(theirs="pope_recall", ours="recall", why=_DROPPED),
    Pair(theirs="pope_f1_score", ours="f1", why=f"pooled over the splits on both sides; {_DROPPED}"),
    Pair(
        theirs="pope_yes_ratio",
        ours="yes_rate",
        why="lmms-eval counts the questions whose right answer is yes, ours the answers that are yes",
    ),
)
_SOFT = "both give VQA soft accuracy, and no difference on equal answers is known"
LAYOUTS: Mapping[str, Layout] = {
    "pope": Layout(yaml="pope/pope.yaml", doc=_pope, pairs=_POPE_PAIRS),
    "seedbench": Layout(
        yaml="seedbench/seedbench.yaml",
        doc=_seed,
        listed=True,
        unfit=_not_four,
        pairs=(Pair(theirs="seed_image", why="lmms-eval takes the first character, so that `(B)` is wrong"),),
    ),
    "mme": Layout(
        yaml="mme/mme.yaml",
        doc=_mme,
        unfit=_unpaired,
        pairs=(
            Pair(theirs="mme_perception_score", ours="mme_perception", why="lmms-eval deletes dots and takes y and n"),
            Pair(theirs="mme_cognition_score", ours="mme_cognition", why="lmms-eval deletes dots and takes y and n"),
        ),
    ),
    "gqa": Layout(
        yaml="gqa/gqa.yaml",
        doc=_open,
        pairs=(
            Pair(
                theirs="exact_match",
                why="lmms-eval drops case and punctuation. Its own task loads the pictures from the hub by a name in "
                "its code, which no setting moves; here they are the local ones",
            ),
        ),
    ),
    "scienceqa_img": Layout(
        yaml="scienceqa/scienceqa_img.yaml",
        doc=_scienceqa,
        pairs=(Pair(theirs="exact_match", why="lmms-eval takes the letter, or a text that begins with `X.`"),),
    ),
    "textvqa_val": Layout(yaml="textvqa/textvqa_val.yaml", doc=_open, pairs=(Pair(theirs="exact_match", why=_SOFT),)),
    "textvqa_ocr": Layout(
        yaml="textvqa/textvqa_val.yaml",
        doc=_open,
        own_prompt=True,
        pairs=(Pair(theirs="exact_match", why="both give VQA soft accuracy, on our prompt with its OCR words"),),
    ),
    "vizwiz_vqa_val": Layout(
        yaml="vizwiz_vqa/vizwiz_vqa_val.yaml", doc=_open, pairs=(Pair(theirs="exact_match", why=_SOFT),)
    ),
    "mmbench_en_dev_static": Layout(
        yaml="mmbench/mmbench_en_dev_static.yaml",
        doc=_mmbench,
        pairs=(
            Pair(
                theirs="gpt_eval_score",
                unit=100.0,
                why="all rotations of a question must be right on both sides; the prompts differ by one line",
            ),
        ),
    ),
    "chartqa": Layout(
        yaml="chartqa/chartqa.yaml",
        doc=_chartqa,
        pairs=(Pair(theirs="relaxed_overall", why="numbers within 5%; `1,000` and `10` for `10%` are traps"),),
    ),
    "ocrbench": Layout(
        yaml="ocrbench/ocrbench.yaml",
        doc=_ocrbench,
        unfit=_unknown_type,
        pairs=(
            Pair(
                theirs="ocrbench_accuracy",
                why="lmms-eval divides by 1000 whatever was asked, ours by the questions that were scored",
            ),
        ),
    ),
}
# Names that a benchmark has elsewhere, hyphens written as underscores.
_ALIASES = {
    "seed": "seedbench", "seed_image": "seedbench", "seedbench_image": "seedbench",
    "scienceqa": "scienceqa_img", "sqa_img": "scienceqa_img",
    "textvqa": "textvqa_val", "vizwiz": "vizwiz_vqa_val", "vizwiz_val": "vizwiz_vqa_val",
    "mmbench": "mmbench_en_dev_static", "mmbench_dev": "mmbench_en_dev_static",
    "mmbench_en_dev": "mmbench_en_dev_static", "mmbench_dev_static": "mmbench_en_dev_static",
    "mmbench_dev_en_static": "mmbench_en_dev_static",
}  # fmt: skip


def counterpart(spec: TaskSpec) -> tuple[str, Layout]:
    """Returns the name of lmms-eval's task that a task of ours is, and its layout.

    A task that lmms-eval does not have is asked with our prompt and scored by the rule of lmms-eval that fits its kind:
    POPE's for yes and no, SEED-Bench's for letters, `exact_match` for options and answers written out.
    """
    name = spec.name.replace("-", "_").replace(".", "_")
    name = _ALIASES.get(name, name)
    if name in LAYOUTS:
        return name, LAYOUTS[name]
    if spec.kind == "yesno":
        return "pope's rule", Layout(yaml="pope/pope.yaml", doc=_pope, own_prompt=True, pairs=_POPE_PAIRS)
    if spec.kind == "choice" and spec.parser == "letter":
        rule = LAYOUTS["seedbench"]
        pairs = (Pair(theirs="seed_image", ours=_written(spec), why=rule.pairs[0].why),)
        return "seedbench's rule", Layout(yaml=rule.yaml, doc=_seed, listed=True, own_prompt=True, pairs=pairs)
    why = "lmms-eval drops case and all punctuation"
    if spec.scoring == "likelihood":
        why += "; ours is the freely written answer, since lmms-eval cannot rank options"
    return "exact_match", Layout(
        yaml="",
        doc=_open,
        own_prompt=True,
        pairs=(Pair(theirs="exact_match", ours=_written(spec) if spec.kind == "choice" else "", why=why),),
        config=_EXACT_MATCH,
    )


def _written(spec: TaskSpec) -> str:
    """Returns our metric of the freely written answer."""
    return "greedy_accuracy" if spec.scoring == "likelihood" else "accuracy"


_EXACT_MATCH: Mapping[str, Any] = {
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_target": "answers",
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": True,
        }
    ],
}
