"""What must hold for every scorer and every protocol, under every control: they need answers alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.metrics.base import values_of
from ovbench.harness.metrics.judging import judge
from ovbench.harness.metrics.mme import COGNITION, PERCEPTION
from ovbench.harness.metrics.protocol_base import Answered
from ovbench.harness.metrics.protocols import PROTOCOLS
from ovbench.harness.metrics.score import SCORERS, sample_rows, score_task, scorer_name
from ovbench.tasks import scorers as stated
from ovbench.tasks.base import Sample, TaskSpec

PARSER = {"choice": "letter", "yesno": "pope_official", "open": "vqa", "scienceqa": "scienceqa", "mme": "mme_official"}
RAW = ("A", "B.", "(C)", "yes", "No.", "Yes, it is", "", "cat", "10%", "1,000", "The answer is B.", "not sure", "\n")


def _spec(name: str) -> TaskSpec:
    entry = stated.SCORERS[name]
    return TaskSpec(
        name="quiz",
        version=1,
        title="a quiz",
        kind=entry.kind,
        source={},
        prompt="{question}",
        scoring="greedy",
        parser=entry.parser or PARSER.get(name, PARSER[entry.kind]),
        metrics=entry.metrics,
        headline=entry.metrics[0],
        chance=0.25 * entry.most(entry.metrics[0]),
        scorer="" if name in ("choice", "yesno", "open") else name,
    )


def _samples(name: str) -> list[Sample]:
    kind = stated.SCORERS[name].kind
    groups = (*PERCEPTION, *COGNITION) if name == "mme" else ("random", "popular")
    found: list[Sample] = []
    for place in range(28 * 6):
        image, twin = divmod(place, 2)
        group = groups[image % len(groups)]
        options = {"choice": ("cat", "dog", "bus", "sky"), "yesno": ("yes", "no"), "open": ()}[kind]
        answer = {"choice": options and options[twin], "yesno": ("yes", "no")[twin], "open": "cat"}[kind]
        found.append(
            Sample(
                item_id=f"q{place}",
                image_id=f"image{image}",
                prompt="",
                question="?",
                options=options,
                answer=str(answer),
                group=group,
                answers=("cat",) * 4 + ("10",) * 6 if kind == "open" else (),
                extra={"index": str(twin * 1_000_000 + image), "question_id": f"{group}/{image}"},
            )
        )
    return found


def _texts(samples: Sequence[Sample], control: str) -> list[str]:
    draw = random.Random(control)
    return [draw.choice(RAW) for _ in samples]


@pytest.mark.parametrize("control", ["none", "shuffled", "blind"])
@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_gives_every_metric_it_states_under_every_control(name: str, control: str) -> None:
    spec, samples = _spec(name), _samples(name)
    predictions = [judge(spec, *item, ()) for item in zip(samples, _texts(samples, control), strict=True)]
    scores = score_task(spec, samples, predictions)
    entry = stated.SCORERS[name]
    assert set(entry.metrics) <= set(scores)
    for metric in entry.metrics:
        score = scores[metric]
        assert score.spec.unit == entry.unit(metric)
        assert score.value is not None
        if entry.unit(metric) != "count":
            assert 0.0 <= score.value <= entry.most(metric)
        assert score.spec.citation
    values = values_of(scores, spec.name, control)
    assert {value.control for value in values} == {control}
    assert len(sample_rows(spec.name, control, samples, predictions)) == len(samples)


@pytest.mark.parametrize("name", SCORERS)
def test_the_headline_has_an_interval(name: str) -> None:
    spec, samples = _spec(name), _samples(name)
    predictions = [judge(spec, *item, ()) for item in zip(samples, _texts(samples, "none"), strict=True)]
    score = score_task(spec, samples, predictions)[spec.headline]
    assert score.interval.low is not None
    assert score.interval.high is not None
    assert score.interval.low <= (score.value or 0.0) <= score.interval.high
    expected = "bootstrap" if spec.headline in ("pope_f1_mean", "mme_perception") else "clustered by image"
    assert score.interval.method.startswith(expected)


@pytest.mark.parametrize("name", SCORERS)
def test_the_order_of_answers_changes_no_score(name: str) -> None:
    spec, samples = _spec(name), _samples(name)
    predictions = [judge(spec, *item, ()) for item in zip(samples, _texts(samples, "none"), strict=True)]
    assert score_task(spec, samples, predictions) == score_task(spec, samples, predictions[::-1])


def test_every_stated_scorer_is_there_with_a_version_and_protocols() -> None:
    assert set(SCORERS) == set(stated.SCORERS) == set(PROTOCOLS)
    assert {name: scorer.version for name, scorer in SCORERS.items()} == {name: f"{name}-1" for name in SCORERS}
    assert scorer_name(_spec("mme")) == "greedy, mme_official, mme-1"


@pytest.mark.parametrize(
    ("scorer", "protocol"), [(scorer, name) for scorer, table in PROTOCOLS.items() for name in table]
)
def test_a_protocol_gives_its_headline_and_compares_it_with_a_metric_of_ours(scorer: str, protocol: str) -> None:
    entry = PROTOCOLS[scorer][protocol]
    spec, samples = _spec(scorer), _samples(scorer)
    texts = _texts(samples, "none")
    ranks = (-1.0, -2.0, -3.0, -4.0) if entry.needs == "likelihoods" else None
    answers = [
        Answered(sample=sample, raw=raw, option_scores=ranks) for sample, raw in zip(samples, texts, strict=True)
    ]
    numbers = entry.score(answers)
    assert entry.headline in numbers
    assert entry.headline in entry.ours
    scores = score_task(spec, samples, [judge(spec, *item, ()) for item in zip(samples, texts, strict=True)])
    for theirs, ours in entry.ours.items():
        assert theirs in numbers
        assert ours in scores
        assert scores[ours].spec.unit == entry.units.get(theirs, "fraction")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"scorer": "popes"}, "unknown scorer 'popes'"),
        ({"scorer": "mmbench"}, "the scorer 'mmbench' scores choice answers, the task is of kind yesno"),
        ({"headline": "n_unparsed"}, "'n_unparsed' counts answers and is no headline"),
        ({"metrics": ("seed_image",)}, "unknown metric 'seed_image'"),
        ({"chance": 1.5}, r"chance must be in \[0, 1\), got 1.5"),
    ],
)
def test_a_task_that_does_not_fit_its_scorer_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        dataclasses.replace(_spec("pope"), **changes)


def test_a_chance_level_is_in_the_unit_of_the_headline() -> None:
    spec = dataclasses.replace(_spec("mme"), chance=750.0)
    assert spec.headline_unit == "points"
    with pytest.raises(ConfigError, match=r"chance must be in \[0, 2000\), got 2000"):
        dataclasses.replace(spec, chance=2000)


def test_a_scorer_with_its_own_parser_refuses_another() -> None:
    with pytest.raises(ConfigError, match="the scorer 'vqa' compares what the parser 'vqa' reads, not 'gqa'"):
        dataclasses.replace(_spec("vqa"), parser="gqa")


def test_an_open_question_has_no_likelihoods() -> None:
    with pytest.raises(ConfigError, match="an open question has no options"):
        dataclasses.replace(_spec("gqa"), scoring="likelihood")
