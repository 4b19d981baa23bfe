"""Questions: right by a slow look at the scene graph, balanced, and not to be guessed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import pytest

from ovbench._base.errors import ConfigError
from ovbench.tasks.load import load_task
from ovbench.tasks.world.questions import (
    KINDS,
    POPE_SPLITS,
    AskedQuestion,
    Question,
    dialogue_turns,
    pope_questions,
    seed_questions,
    training_turns,
)
from ovbench.tasks.world.scene import GARMENTS, Scene, make_scene, theme_posterior

NUM_TRAIN = 15_000
Turns = Callable[[Scene, int, int], tuple[Question, ...]]


@pytest.fixture(scope="module")
def seed_test() -> tuple[AskedQuestion, ...]:
    """The questions of mini-seed."""
    source = load_task("mini-seed").source
    return seed_questions(source["seed"], source["split"], num_scenes=source["num_scenes"], per_kind=source["per_kind"])


@pytest.fixture(scope="module")
def pope_test() -> tuple[AskedQuestion, ...]:
    """The questions of mini-pope."""
    source = load_task("mini-pope").source
    return pope_questions(
        source["seed"], source["split"], num_scenes=source["num_scenes"], per_split=source["per_split"]
    )


# --- the right answer, found again from the question's words and the scene graph ----------------------------------


def _cell_name(cell: int) -> str:
    return f"{'top' if cell < 2 else 'bottom'}-{'left' if cell % 2 == 0 else 'right'}"


def _right_answer(scene: Scene, kind: str, text: str) -> str:
    words = text.rstrip("?").split()
    named = {item.garment: item for item in scene.items}
    if kind == "identity":
        (garment,) = [item.garment for item in scene.items if _cell_name(item.cell) == words[-1]]
        return garment
    if kind == "attribute":
        return named[words[-1]].colour
    if kind == "location":
        return _cell_name(named[words[-1]].cell)
    if kind == "counting":
        return {1: "one", 2: "two", 3: "three", 4: "four"}[len(scene.items)]
    if kind == "relation":
        first, second = _cell_name(named[words[3]].cell), _cell_name(named[words[-1]].cell)
        (row_a, column_a), (row_b, column_b) = first.split("-"), second.split("-")
        if row_a == row_b:
            return column_a
        assert column_a == column_b, "the two share neither row nor column"
        return {"top": "above", "bottom": "below"}[row_a]
    if kind == "scene":
        assert theme_posterior(scene.garments)[scene.theme] >= 0.85
        return scene.theme
    if kind == "reasoning":
        worn = {"feet": {"sandal", "sneaker", "boot"}, "hand": {"bag"}, "legs": {"trouser"}}[words[-1]]
        (item,) = [item for item in scene.items if item.garment in worn]
        return _cell_name(item.cell)
    assert kind == "pope"
    return "yes" if words[3] in named else "no"


def test_every_seed_answer_is_right_and_among_its_options(seed_test: tuple[AskedQuestion, ...]) -> None:
    for asked in seed_test:
        answer = _right_answer(asked.scene, asked.question.kind, asked.question.text)
        assert asked.question.answer == answer
        assert asked.options.count(answer) == 1
        assert len(set(asked.options)) == 4


def test_negatives_are_absent_and_positives_present(pope_test: tuple[AskedQuestion, ...]) -> None:
    for asked in pope_test:
        assert asked.question.answer == _right_answer(asked.scene, "pope", asked.question.text)


@pytest.mark.parametrize("turns", [training_turns, dialogue_turns])
def test_every_training_answer_is_right(turns: Turns) -> None:
    for index in range(1000):
        scene = make_scene(4, "train", index)
        for turn in turns(scene, 4, 8):
            assert turn.answer == _right_answer(scene, turn.kind, turn.text)


# --- balance of the tests --------------------------------------------------------------------------------------------


def _spread(values: Iterable[str]) -> int:
    counts = Counter(values).values()
    return max(counts) - min(counts)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_places_of_a_kind_are_equally_frequent(seed_test: tuple[AskedQuestion, ...], kind: str) -> None:
    asked = [entry for entry in seed_test if entry.group == kind]
    assert len(asked) == 200
    assert {entry.question.answer for entry in asked} == set(asked[0].question.pool)
    assert _spread(entry.question.answer for entry in asked) <= 1
    assert Counter(entry.options.index(entry.question.answer) for entry in asked) == dict.fromkeys(range(4), 50)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_used_once_per_kind(seed_test: tuple[AskedQuestion, ...], kind: str) -> None:
    images = [entry.scene.image_id for entry in seed_test if entry.group == kind]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("split", POPE_SPLITS)
def test_half_are_yes_for_every_garment_and_number_of_items(pope_test: tuple[AskedQuestion, ...], split: str) -> None:
    asked = [entry for entry in pope_test if entry.group == split]
    assert len(asked) == 600
    counts = Counter((entry.question.text, len(entry.scene.items), entry.question.answer) for entry in asked)
    for text, number, _ in list(counts):
        assert counts[text, number, "yes"] == counts[text, number, "no"]


@pytest.mark.parametrize("split", POPE_SPLITS)
def test_no_yes_no_question_is_asked_twice(pope_test: tuple[AskedQuestion, ...], split: str) -> None:
    pairs = [(entry.scene.image_id, entry.question.text) for entry in pope_test if entry.group == split]
    assert len(set(pairs)) == len(pairs)


def _negatives(asked: tuple[AskedQuestion, ...], split: str) -> list[tuple[Scene, str]]:
    return [
        (entry.scene, entry.question.text.split()[3])
        for entry in asked
        if entry.group == split and entry.question.answer == "no"
    ]


def _test_scenes() -> list[Scene]:
    source = load_task("mini-pope").source
    return [make_scene(source["seed"], source["split"], index) for index in range(source["num_scenes"])]


def test_random_negatives_reach_every_garment(pope_test: tuple[AskedQuestion, ...]) -> None:
    assert {garment for _, garment in _negatives(pope_test, "random")} == set(GARMENTS)


def test_popular_negatives_are_among_the_three_most_frequent_absent_ones(pope_test: tuple[AskedQuestion, ...]) -> None:
    scenes = _test_scenes()
    number = {name: sum(name in scene.garments for scene in scenes) for name in GARMENTS}
    for scene, garment in _negatives(pope_test, "popular"):
        more_frequent = [n for n in GARMENTS if n not in scene.garments and number[n] > number[garment]]
        assert len(more_frequent) <= 2


def test_adversarial_negatives_are_among_the_two_most_seen_with_what_is_there(
    pope_test: tuple[AskedQuestion, ...],
) -> None:
    scenes = _test_scenes()
    together = {
        (a, b): sum(a in scene.garments and b in scene.garments for scene in scenes) for a in GARMENTS for b in GARMENTS
    }
    for scene, garment in _negatives(pope_test, "adversarial"):
        company = {n: max(together[n, there] for there in scene.garments) for n in GARMENTS if n not in scene.garments}
        assert sum(value > company[garment] for value in company.values()) <= 1


def test_adversarial_negatives_keep_more_company_than_random_ones(pope_test: tuple[AskedQuestion, ...]) -> None:
    scenes = _test_scenes()
    together = Counter((a, b) for scene in scenes for a in scene.garments for b in scene.garments)
    mean = {}
    for split in ("random", "adversarial"):
        negatives = _negatives(pope_test, split)
        mean[split] = sum(max(together[name, there] for there in scene.garments) for scene, name in negatives) / 300
    assert mean["adversarial"] > 1.3 * mean["random"]


def test_questions_are_repeatable(pope_test: tuple[AskedQuestion, ...]) -> None:
    source = load_task("mini-pope").source
    assert pope_questions(source["seed"], "test", num_scenes=1000, per_split=600) == pope_test
    assert pope_questions(source["seed"] + 1, "test", num_scenes=1000, per_split=600) != pope_test


def test_too_few_scenes_are_refused() -> None:
    with pytest.raises(ConfigError, match="20 scenes are too few for 200 identity questions"):
        seed_questions(0, "test", num_scenes=20, per_kind=200)
    with pytest.raises(ConfigError, match="20 scenes are too few for 600 random questions"):
        pope_questions(0, "test", num_scenes=20, per_split=600)


# --- nothing is to be won without looking ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts() -> dict[str, Counter[str]]:
    """Question text → how often each answer was right in 15,000 training scenes."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(NUM_TRAIN):
        scene = make_scene(20260121, "train", index)
        for turn in (*training_turns(scene, 20260121, 6), *dialogue_turns(scene, 20260121, 6)):
            table[turn.text][turn.answer] += 1
    return table


def _blind(asked: Iterable[AskedQuestion], counts: dict[str, Counter[str]]) -> float:
    """Returns the share of right answers of the best guesser without an image; ties count as their expected value."""
    won, total = 0.0, 0
    for entry in asked:
        seen = counts[entry.question.text]
        best = [option for option in entry.options if seen[option] == max(seen[name] for name in entry.options)]
        won += (entry.question.answer in best) / len(best)
        total += 1
    return won / total


def test_blind_guessing_wins_nothing_on_mini_seed(
    seed_test: tuple[AskedQuestion, ...], counts: dict[str, Counter[str]]
) -> None:
    shares = {kind: _blind([entry for entry in seed_test if entry.group == kind], counts) for kind in KINDS}
    assert sum(shares.values()) / len(shares) <= 0.28
    assert max(shares.values()) <= 0.31, shares


@pytest.mark.parametrize("split", POPE_SPLITS)
def test_blind_guessing_wins_nothing_on_mini_pope(
    pope_test: tuple[AskedQuestion, ...], counts: dict[str, Counter[str]], split: str
) -> None:
    assert _blind([entry for entry in pope_test if entry.group == split], counts) == pytest.approx(0.5, abs=0.005)


def test_the_blind_check_finds_a_leak(seed_test: tuple[AskedQuestion, ...]) -> None:
    counted = [entry for entry in seed_test if entry.question.answer == "two"]
    assert _blind(counted, defaultdict(Counter, {"How many items are there?": Counter(two=5)})) == 1.0


# --- training turns --------------------------------------------------------------------------------------------------


def _yes_share_by(scenes: int, turns: Turns, key: Callable[[Question, tuple[Question, ...]], object]) -> Counter:
    """Returns (key, answer) → how often, over the yes/no turns of dialogues of eight."""
    found: Counter = Counter()
    for index in range(scenes):
        dialogue = turns(make_scene(8, "train", index), 8, 8)
        for place, turn in enumerate(dialogue):
            if turn.kind == "pope":
                found[key(turn, dialogue[:place]), turn.answer] += 1
    return found


def _predicted(found: Counter) -> float:
    keys = {key for key, _ in found}
    return sum(max(found[key, "yes"], found[key, "no"]) for key in keys) / found.total()


@pytest.mark.parametrize("turns", [training_turns, dialogue_turns])
def test_training_turns_are_nearly_half_yes_no_and_of_every_kind(turns: Turns) -> None:
    kinds = Counter(turn.kind for i in range(2000) for turn in turns(make_scene(8, "train", i), 8, 8))
    assert 0.40 <= kinds["pope"] / kinds.total() <= 0.55
    assert min(kinds[kind] / kinds.total() for kind in KINDS) >= 0.04


@pytest.mark.parametrize(("turns", "least", "most"), [(training_turns, 0.38, 0.52), (dialogue_turns, 0.44, 0.57)])
def test_yes_is_nearly_half_for_every_garment(turns: Turns, least: float, most: float) -> None:
    found = _yes_share_by(3000, turns, lambda turn, _: turn.text)
    for key, _ in list(found):
        assert least <= found[key, "yes"] / (found[key, "yes"] + found[key, "no"]) <= most


def test_history_of_a_dialogue_tells_no_answer() -> None:
    def history(turn: Question, before: tuple[Question, ...]) -> object:
        garment = turn.text.split()[3]
        mentioned = any(garment in f"{other.text} {other.answer}" for other in before)
        return mentioned, tuple(other.answer for other in before if other.kind == "pope")

    assert _predicted(_yes_share_by(3000, dialogue_turns, history)) <= 0.55


@pytest.mark.parametrize("turns", [training_turns, dialogue_turns])
def test_training_turns_are_different_repeatable_and_few_enough(turns: Turns) -> None:
    for index in range(200):
        scene = make_scene(8, "train", index)
        made = turns(scene, 8, 5)
        assert turns(scene, 8, 5) == made
        assert len({turn.text for turn in made}) == len(made) <= 5
    scene = make_scene(8, "train", 0)
    assert turns(scene, 9, 5) != turns(scene, 8, 5)
