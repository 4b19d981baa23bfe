"""Questions about scenes with balanced answers, so that nothing can be won without looking.

Two families: four-choice questions of SEED-Bench's image dimensions as far as scenes carry them, and yes/no questions
as POPE asks them (random, popular, adversarial negatives). Test sets are drawn by quota, so every answer of a kind is
equally frequent; training turns are thinned to the same effect.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, cycle, islice

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import derive
from ovbench.tasks.world.captions import BODY_PARTS, NUMBERS, RELATIONS
from ovbench.tasks.world.scene import (
    CELLS,
    COLOURS,
    GARMENTS,
    MAX_ITEMS,
    THEMES,
    Item,
    Scene,
    make_scene,
    set_probability,
    theme_posterior,
)

KINDS = ("identity", "attribute", "location", "counting", "relation", "scene", "reasoning")
POPE_SPLITS = ("random", "popular", "adversarial")
MIN_POSTERIOR = 0.85  # a scene question is asked only where the garments say the theme this clearly
_OPTIONS = 4
_YES_NO_DRAWS = 0.75  # of the draws of a dialogue; fewer come through, since many would be given away
_MAX_PASSES = 20  # over all scenes, before the yes/no test is given up as too large


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about one scene."""

    kind: str
    text: str
    answer: str
    pool: tuple[str, ...]  # all answers that this kind can have; distractors are drawn from it


@cache
def marginals() -> dict[str, float]:
    """Returns P(garment is in a scene), exact under the generator."""
    found = dict.fromkeys(GARMENTS, 0.0)
    for count in range(1, MAX_ITEMS + 1):
        for chosen in combinations(GARMENTS, count):
            weight = sum(set_probability(theme, frozenset(chosen)) for theme in THEMES)
            for name in chosen:
                found[name] += weight / (len(THEMES) * MAX_ITEMS)
    return found


_POOLS: dict[str, tuple[str, ...]] = {
    "identity": GARMENTS,
    "attribute": COLOURS,
    "location": CELLS,
    "counting": NUMBERS,
    "relation": RELATIONS,
    "scene": THEMES,
    "reasoning": CELLS,
}


def _question(kind: str, text: str, answer: str) -> Question:
    return Question(kind=kind, text=text, answer=answer, pool=_POOLS[kind])


def _identity(scene: Scene, rng: random.Random) -> Question:
    share = marginals()
    item = rng.choices(scene.items, weights=[1.0 / share[item.garment] for item in scene.items])[0]
    return _question("identity", f"What is in the {CELLS[item.cell]}?", item.garment)


def _attribute(scene: Scene, rng: random.Random) -> Question:
    item = rng.choice(scene.items)
    return _question("attribute", f"What colour is the {item.garment}?", item.colour)


def _location(scene: Scene, rng: random.Random) -> Question:
    item = rng.choice(scene.items)
    return _question("location", f"Where is the {item.garment}?", CELLS[item.cell])


def _counting(scene: Scene, rng: random.Random) -> Question:
    del rng
    return _question("counting", "How many items are there?", NUMBERS[len(scene.items) - 1])


def relation_between(first: Item, second: Item) -> str | None:
    """Returns where `first` is seen from `second`, or None when they share neither row nor column."""
    (row_a, column_a), (row_b, column_b) = divmod(first.cell, 2), divmod(second.cell, 2)
    if row_a == row_b:
        return "left" if column_a < column_b else "right"
    if column_a == column_b:
        return "above" if row_a < row_b else "below"
    return None


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    pairs = [(a, b) for pair in combinations(scene.items, 2) for a, b in (pair, pair[::-1]) if relation_between(a, b)]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    answer = relation_between(first, second)
    assert answer is not None
    return _question("relation", f"Where is the {first.garment} relative to the {second.garment}?", answer)


def _scene(scene: Scene, rng: random.Random) -> Question | None:
    del rng
    if theme_posterior(scene.garments)[scene.theme] < MIN_POSTERIOR:
        return None
    return _question("scene", "Which scene is this?", scene.theme)


def _reasoning(scene: Scene, rng: random.Random) -> Question | None:
    parts = list(BODY_PARTS)
    rng.shuffle(parts)
    for part in parts:
        items = [item for item in scene.items if item.garment in BODY_PARTS[part]]
        if len(items) == 1:
            return _question("reasoning", f"Where is the item for the {part}?", CELLS[items[0].cell])
    return None


_ASK: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "identity": _identity,
    "attribute": _attribute,
    "location": _location,
    "counting": _counting,
    "relation": _relation,
    "scene": _scene,
    "reasoning": _reasoning,
}


def pope_question(garment: str, present: bool) -> Question:
    """Returns POPE's question for one garment."""
    return Question(
        kind="pope",
        text=f"Is there a {garment} in the image?",
        answer="yes" if present else "no",
        pool=("yes", "no"),
    )


def training_turns(scene: Scene, seed: int, count: int) -> tuple[Question, ...]:
    """Returns up to `count` different questions about a training scene.

    Half of the draws are yes/no, half of those yes. Garments are drawn with weights inverse to how often they are
    present (or absent), so that `P(yes | garment)` is near one half (0.40 to 0.50) and the identity answers are close
    to uniform. Meant for text that shows the caption, or for turns used one by one.

    Trap: read in this order as one dialogue, yes and no alternate and earlier turns name what is there; use
    `dialogue_turns` where a model must look.
    """
    rng = random.Random(derive(seed, "world/turns", scene.split, scene.index))
    share = marginals()
    turns: dict[str, Question] = {}
    num_no_more_than_yes = 0
    for _ in range(6 * count):
        if len(turns) == count:
            break
        question: Question | None
        if rng.random() < 0.5:
            present = num_no_more_than_yes > 0 or (num_no_more_than_yes == 0 and rng.random() < 0.5)
            names = [name for name in GARMENTS if (name in scene.garments) is present]
            weights = [1.0 / (share[name] if present else 1.0 - share[name]) for name in names]
            question = pope_question(rng.choices(names, weights=weights)[0], present)
        else:
            question = _ASK[rng.choice(KINDS)](scene, rng)
        if question is not None and question.text not in turns:
            turns[question.text] = question
            num_no_more_than_yes += {"yes": -1, "no": 1}.get(question.answer, 0)
    return tuple(turns.values())


def _unspoilt(scene: Scene, named: set[str], rng: random.Random) -> Question | None:
    """Asks yes/no about a garment that was not named, or returns None where the dialogue gives the answer away."""
    share = marginals()
    present = [name for name in GARMENTS if name in scene.garments and name not in named]
    absent = [name for name in GARMENTS if name not in scene.garments and name not in named]
    if not present or not absent:
        return None
    # Contract: a fair coin whenever it is asked at all, so that what was said before tells nothing about the answer.
    if rng.random() < 0.5:
        return pope_question(rng.choices(present, weights=[1.0 / share[name] for name in present])[0], True)
    weights = [share[name] / (1.0 - share[name]) for name in absent]  # as often where absent as where present
    return pope_question(rng.choices(absent, weights=weights)[0], False)


def dialogue_turns(scene: Scene, seed: int, count: int) -> tuple[Question, ...]:
    """Returns up to `count` different questions about a training scene, to be asked in this order in one dialogue.

    Nearly half are yes/no. Such a question is about a garment that no earlier turn has named, its answer is a fair coin
    whatever was said before, and over many scenes `P(yes | garment)` is near one half (0.46 to 0.55): yes and no can
    only be told by looking. (In the order of `training_turns`, a reader of the dialogue alone gets five of six right.)
    """
    rng = random.Random(derive(seed, "world/dialogue", scene.split, scene.index))
    turns: dict[str, Question] = {}
    named: set[str] = set()
    for _ in range(6 * count):
        if len(turns) == count:
            break
        yes_no = rng.random() < _YES_NO_DRAWS
        question = _unspoilt(scene, named, rng) if yes_no else _ASK[rng.choice(KINDS)](scene, rng)
        if question is not None and question.text not in turns:
            turns[question.text] = question
            named |= {name for name in GARMENTS if name in f"{question.text} {question.answer}"}
    return tuple(turns.values())


def _options(question: Question, place: int, rng: random.Random) -> tuple[str, ...]:
    """Returns four options: three uniform distractors of the question's pool, and the answer at `place`."""
    options = rng.sample([value for value in question.pool if value != question.answer], _OPTIONS - 1)
    options.insert(place, question.answer)
    return tuple(options)


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedQuestion:
    """A question of a test set, with the scene it is about."""

    scene: Scene
    question: Question
    options: tuple[str, ...]
    group: str  # the kind, or the POPE split


def seed_questions(seed: int, split: str, *, num_scenes: int, per_kind: int) -> tuple[AskedQuestion, ...]:
    """Returns the four-choice test, `per_kind` questions of each kind about different scenes.

    Within a kind all answers are equally frequent, and so are the four places of the right option (both to within one).

    Args:
        seed: The task's own seed (not the run's).
        split: `train` or `test`.
        num_scenes: Scenes to ask about; each is used at most once per kind.
        per_kind: Questions per kind.

    Raises:
        ConfigError: There are too few scenes for that many questions.
    """
    scenes = [make_scene(seed, split, index) for index in range(num_scenes)]
    asked: list[AskedQuestion] = []
    for kind in KINDS:
        rng = random.Random(derive(seed, "world/seed-questions", split, kind))
        found: dict[str, list[tuple[Scene, Question]]] = {}
        for scene in rng.sample(scenes, len(scenes)):
            question = _ASK[kind](scene, rng)
            if question is not None:
                found.setdefault(question.answer, []).append((scene, question))
        places = [number % _OPTIONS for number in range(per_kind)]
        rng.shuffle(places)  # else place and answer would go together
        pool = _POOLS[kind]
        for number, place in enumerate(places):
            turn, answer = divmod(number, len(pool))
            candidates = found.get(pool[answer], [])
            if turn >= len(candidates):
                raise _too_few(num_scenes, f"{per_kind} {kind} questions with equally frequent answers", "per_kind")
            scene, question = candidates[turn]
            options = _options(question, place, rng)
            asked.append(AskedQuestion(scene=scene, question=question, options=options, group=kind))
    return tuple(asked)


def _too_few(num_scenes: int, wanted: str, key: str) -> ConfigError:
    return ConfigError(
        f"{num_scenes} scenes are too few for {wanted}",
        where="source of the task",
        fix=f"raise num_scenes, or lower {key}",
    )


def _negative(
    scene: Scene, strategy: str, rng: random.Random, frequency: Counter[str], together: Counter[tuple[str, str]]
) -> str:
    absent = [name for name in GARMENTS if name not in scene.garments]
    if strategy == "popular":
        absent = sorted(absent, key=lambda name: (-frequency[name], name))[:3]
    elif strategy == "adversarial":
        absent = sorted(absent, key=lambda name: (-max(together[name, item] for item in scene.garments), name))[:2]
    return rng.choice(absent)


def pope_questions(seed: int, split: str, *, num_scenes: int, per_split: int) -> tuple[AskedQuestion, ...]:
    """Returns the yes/no test: for each of the three strategies `per_split` questions, no and yes in turn.

    A negative asks for a garment that is absent (uniform; one of the three most frequent absent ones; one of the two
    absent ones seen most often together with a present one). Its matching positive asks for the same garment about
    **another** scene that contains it and has as many items, so `P(yes | garment, number of items)` is exactly one
    half in every split. Taking both from one image, as POPE does, would tell a reader that popular garments are absent;
    taking any scene with the garment would reward counting, since a scene of four items holds it more often.

    Args:
        seed: The task's own seed (not the run's).
        split: `train` or `test`.
        num_scenes: Scenes to ask about.
        per_split: Questions per strategy; even.

    Raises:
        ConfigError: There are too few scenes for that many questions.
    """
    scenes = [make_scene(seed, split, index) for index in range(num_scenes)]
    frequency: Counter[str] = Counter(name for scene in scenes for name in scene.garments)
    together: Counter[tuple[str, str]] = Counter(
        (a, b) for scene in scenes for a in scene.garments for b in scene.garments if a != b
    )
    holding: dict[tuple[str, int], list[Scene]] = {}
    for scene in scenes:
        for name in scene.garments:
            holding.setdefault((name, len(scene.items)), []).append(scene)
    asked: list[AskedQuestion] = []
    for strategy in POPE_SPLITS:
        rng = random.Random(derive(seed, "world/pope-questions", split, strategy))
        order: Sequence[Scene] = rng.sample(scenes, len(scenes))
        seen: set[tuple[str, str]] = set()
        for scene in islice(cycle(order), _MAX_PASSES * len(order)):
            if len(seen) >= per_split:
                break
            garment = _negative(scene, strategy, rng, frequency, together)
            alike = holding.get((garment, len(scene.items)), [])
            positives = [other for other in alike if (other.image_id, garment) not in seen]
            if (scene.image_id, garment) in seen or not positives:
                continue
            for about, present in ((scene, False), (rng.choice(positives), True)):
                seen.add((about.image_id, garment))
                question = pope_question(garment, present)
                asked.append(AskedQuestion(scene=about, question=question, options=("yes", "no"), group=strategy))
        if len(seen) < per_split:
            raise _too_few(num_scenes, f"{per_split} {strategy} questions, all different", "per_split")
    return tuple(asked)
