"""SEED-Bench, image part (arXiv 2307.16125): `seed_image`, its dimensions, and how far the programs disagree.

`seed_image` is the micro average over rows; the id 49914 occurs twice and stays two rows. The bare word "SEED" means
the image part, or image and video, or another number of videos, and is never used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ovbench.harness.metrics.base import (
    MetricSpec,
    ScoredMetric,
    collect,
    count_spec,
    counted,
    pair,
)
from ovbench.harness.metrics.choice import rate, score_choice
from ovbench.harness.metrics.protocol_base import (
    Answered,
    Read,
    ScoringProtocol,
    by_letter,
    grouped,
    likeliest,
    share_right,
)
from ovbench.tasks.answers import LETTERS, first_letter, option_at
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_letters import after_answer_is, one_letter_word

SCORER = "seedbench-1"  # name and version; a change of any number raises the version
_SEED = "SEED-Bench (arXiv 2307.16125)"
_LLAVA = "LLaVA, scripts/convert_seed_for_submission.py"

SEED_IMAGE = MetricSpec(
    name="seed_image", title="accuracy on the image questions", unit="fraction", higher_is_better=True, citation=_SEED
)
SEED_IMAGE_MACRO = MetricSpec(
    name="seed_image_macro",
    title="mean of the dimensions' accuracies",
    unit="fraction",
    higher_is_better=True,
    citation="unweighted mean over dimensions",
)
LIKELIHOOD = MetricSpec(
    name="likelihood_accuracy",
    title="accuracy of the likeliest option text",
    unit="fraction",
    higher_is_better=True,
    citation=f"{_SEED}, eval.py",
)
N_POLICY = count_spec("n_policy_disagreements", "answers that LLaVA's exact reading judges otherwise", _LLAVA)
N_LIKELIHOOD = count_spec(
    "n_likelihood_disagreements", "answers whose written option is not the likeliest", f"{_SEED}, eval.py"
)
N_UNPARSED = count_spec("n_unparsed", "written answers that name no option", "the task's parser gives nothing")

# Names of the question types as LLaVA's script prints them; 1 to 9 are about images.
TYPES = (
    "Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting",
    "Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding", "Action Recognition",
    "Action Prediction", "Procedure Understanding",
)  # fmt: skip


def exact_letter(raw: str, options: tuple[str, ...] = ()) -> str | None:
    """Returns the text where it is exactly a capital letter: LLaVA's reading of SEED-Bench."""
    del options
    return raw if len(raw) == 1 and raw in LETTERS else None


def score_seedbench(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "seed"
) -> dict[str, ScoredMetric]:
    """Scores SEED-Bench's image questions.

    Args:
        samples: The questions, grouped by dimension.
        predictions: One answer per question, in any order.
        groups: Order of the dimensions.
        label: Not used: nothing is drawn.

    Returns:
        By key: `seed_image`, `seed_image[dimension]`, `seed_image_macro`, `n_policy_disagreements`, `n_unparsed`; where
        options were ranked also `greedy_accuracy`, `likelihood_accuracy` and `n_likelihood_disagreements`.

    Raises:
        DataError: Answers do not match the questions.
    """
    del label
    plain = score_choice(samples, predictions, groups=groups)
    pairs = pair(samples, predictions)
    renamed = {"accuracy": SEED_IMAGE, "accuracy_macro": SEED_IMAGE_MACRO}
    scores = [
        replace(score, spec=renamed.get(score.spec.name, score.spec))
        for score in plain.values()
        if score.spec.name != "unparsed_rate"
    ]
    policy = sum(
        (option_at(exact_letter(prediction.raw.strip()), sample.options) == sample.answer)
        != (option_at(first_letter(prediction.raw), sample.options) == sample.answer)
        for sample, prediction in pairs
    )
    scores.append(counted(N_POLICY, policy, len(pairs)))
    scores.append(counted(N_UNPARSED, sum(prediction.parsed is None for _, prediction in pairs), len(pairs)))
    if all(prediction.option_scores is not None for _, prediction in pairs):
        scores.append(rate(LIKELIHOOD, pairs, lambda *item: _likeliest(*item) == item[0].answer, None))
        apart = sum(_likeliest(*item) != item[1].parsed for item in pairs)
        scores.append(counted(N_LIKELIHOOD, apart, len(pairs)))
    return collect(scores)


def _likeliest(sample: Sample, prediction: Prediction) -> str | None:
    return likeliest(Answered(sample=sample, raw=prediction.raw, option_scores=prediction.option_scores))


def _row_id(sample: Sample) -> str:
    return sample.extra.get("question_id", sample.item_id)


def _llava(readings: Sequence[Read]) -> dict[str, float]:
    said = {_row_id(item.sample): item.said for item in readings}
    right = sum(said[_row_id(item.sample)] == item.sample.answer for item in readings)
    return {"image accuracy": right / len(readings)}


def _lmms(readings: Sequence[Read]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in ("image", "video"):
        if part := [item for item in readings if item.sample.extra.get("data_type", "image") == kind]:
            found[f"seed_{kind}"] = share_right(part)
    return {**found, "seed_all": share_right(readings)}


def _with_groups(name: str, readings: Sequence[Read]) -> dict[str, float]:
    groups = {f"{name}[{group}]": share_right(items) for group, items in grouped(readings).items()}
    return {name: share_right(readings), **groups}


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "official": ScoringProtocol(
        title="SEED-Bench's eval.py: the likeliest of the four option texts",
        read=likeliest,
        aggregate=lambda readings: _with_groups("accuracy", readings),
        headline="accuracy",
        ours={"accuracy": "seed_image"},
        citation=f"{_SEED}, eval.py",
        needs="likelihoods",
    ),
    "lmms-eval": ScoringProtocol(
        title="the first character, any case",
        read=by_letter(lambda raw, _: first_letter(raw)),
        aggregate=_lmms,
        headline="seed_image",
        ours={"seed_image": "seed_image"},
        citation="lmms-eval 0.7.3, tasks/seedbench/utils.py",
        needs="letters",
    ),
    "llava": ScoringProtocol(
        title="the stripped text equals the letter; keyed by question id",
        read=by_letter(lambda raw, _: exact_letter(raw.strip())),
        aggregate=_llava,
        headline="image accuracy",
        ours={"image accuracy": "seed_image"},
        citation=_LLAVA,
        needs="letters",
    ),
    "vlmevalkit": ScoringProtocol(
        title="one letter among the words, or one option's text; without a judge the rest is wrong",
        read=by_letter(one_letter_word),
        aggregate=lambda readings: _with_groups("Overall", readings),
        headline="Overall",
        ours={"Overall": "seed_image"},
        citation="VLMEvalKit, vlmeval/utils/matching_util.py",
        needs="letters",
    ),
    "cambrian": ScoringProtocol(
        title="the first character behind `answer is`, brackets aside",
        read=by_letter(lambda raw, _: after_answer_is(raw)),
        aggregate=lambda readings: _with_groups("accuracy", readings),
        headline="accuracy",
        ours={"accuracy": "seed_image"},
        citation="cambrian, eval/eval/seed/seed_test.py",
        needs="letters",
    ),
}
