"""Scene graphs: repeatable, uniform where they should be."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import pytest

from ovbench.tasks.world.questions import marginals
from ovbench.tasks.world.scene import (
    CELLS,
    COLOURS,
    GARMENTS,
    MAX_ITEMS,
    MAX_JITTER_PX,
    THEMES,
    Scene,
    hard_negatives,
    make_scene,
    make_single,
    set_probability,
    theme_posterior,
)

NUM_SCENES = 6000
# sha256 of repr() of scenes 0…99 with seed 5: the shipped encoders were trained on what this sampler gives.
GOLDEN = {
    "train": "816dafdf66b0385912dcb3d7ce28c86401c2c5d226a041371672c18223fcf223",
    "test": "19ea633aa6cffd5b0fc806f75147dc3e00756e1ef45797b490daf878689ea50d",
}
GOLDEN_SINGLE = "fb413226a4f12e94815134f087648950093d3fbe9ef28949683e237b748eb467"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Many training scenes."""
    return [make_scene(11, "train", index) for index in range(NUM_SCENES)]


def _near(count: int, total: int, share: float) -> bool:
    return abs(count - total * share) < 4.5 * (total * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("split", GOLDEN)
def test_scenes_are_the_stored_ones(split: str) -> None:
    text = repr([make_scene(5, split, index) for index in range(100)])
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN[split]


def test_single_garments_are_the_stored_ones() -> None:
    text = repr([make_single(5, "train", index) for index in range(100)])
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN_SINGLE


def test_scene_depends_on_seed_split_and_index() -> None:
    first = make_scene(1, "train", 7)
    assert make_scene(1, "train", 7) == first
    others = [make_scene(2, "train", 7), make_scene(1, "test", 7), make_scene(1, "train", 8)]
    assert all(replace(other, split="train", index=7) != first for other in others)


def test_image_id_names_split_and_index() -> None:
    assert make_scene(1, "test", 42).image_id == "test-000042"


def test_garments_and_cells_are_distinct_and_in_order(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.items) <= MAX_ITEMS
        assert len(scene.garments) == len(scene.items)
        cells = [item.cell for item in scene.items]
        assert cells == sorted(set(cells))


def test_values_are_in_range(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert all(0 <= value <= 50 for value in scene.background)
        assert -12 <= scene.gradient <= 12
        for item in scene.items:
            assert 0 <= item.dx <= MAX_JITTER_PX
            assert 0 <= item.dy <= MAX_JITTER_PX


def test_theme_number_and_layout_are_uniform(scenes: list[Scene]) -> None:
    themes = Counter(scene.theme for scene in scenes)
    numbers = Counter(len(scene.items) for scene in scenes)
    assert all(_near(themes[theme], NUM_SCENES, 1 / 4) for theme in THEMES)
    assert all(_near(numbers[number], NUM_SCENES, 1 / 4) for number in range(1, MAX_ITEMS + 1))
    for number in range(1, MAX_ITEMS):
        layouts = Counter(tuple(item.cell for item in scene.items) for scene in scenes if len(scene.items) == number)
        possible = list(combinations(range(len(CELLS)), number))
        assert all(_near(layouts[layout], numbers[number], 1 / len(possible)) for layout in possible)


def test_colour_is_uniform_and_independent_of_garment_and_cell(scenes: list[Scene]) -> None:
    items = [item for scene in scenes for item in scene.items]
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for item in items:
        counts[item.garment][item.colour] += 1
        counts[item.cell][item.colour] += 1
    for colours in counts.values():
        assert all(_near(colours[colour], colours.total(), 1 / len(COLOURS)) for colour in COLOURS)


def test_cell_is_independent_of_garment(scenes: list[Scene]) -> None:
    counts = Counter((item.garment, item.cell) for scene in scenes for item in scene.items)
    for garment in GARMENTS:
        total = sum(counts[garment, cell] for cell in range(len(CELLS)))
        assert all(_near(counts[garment, cell], total, 1 / len(CELLS)) for cell in range(len(CELLS)))


def test_marginals_are_what_is_drawn(scenes: list[Scene]) -> None:
    counts = Counter(name for scene in scenes for name in scene.garments)
    assert sum(marginals().values()) == pytest.approx((1 + MAX_ITEMS) / 2)
    assert all(_near(counts[name], NUM_SCENES, share) for name, share in marginals().items())


def test_single_garments_are_uniform() -> None:
    items = [make_single(3, "train", index).items for index in range(4000)]
    assert all(len(item) == 1 for item in items)
    counts = Counter(item[0].garment for item in items)
    assert all(_near(counts[name], 4000, 1 / len(GARMENTS)) for name in GARMENTS)


def test_hard_negatives_share_all_but_the_garments(scenes: list[Scene]) -> None:
    for scene in scenes[:200]:
        for other in hard_negatives(scene, 0, 3):
            assert [(i.cell, i.colour, i.dx, i.dy) for i in other.items] == [
                (i.cell, i.colour, i.dx, i.dy) for i in scene.items
            ]
            assert (other.theme, other.background, other.gradient) == (scene.theme, scene.background, scene.gradient)
            assert len(other.garments) == len(other.items)


def test_hard_negatives_are_repeatable_and_differ(scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if len(scene.items) == 4)
    made = hard_negatives(scene, 0, 3)
    assert hard_negatives(scene, 0, 3) == made
    assert len({tuple(item.garment for item in other.items) for other in (scene, *made)}) == 4


def test_posterior_sums_to_one_over_themes() -> None:
    for number in range(1, MAX_ITEMS + 1):
        for chosen in combinations(GARMENTS, number):
            assert sum(theme_posterior(frozenset(chosen)).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("theme", THEMES)
def test_set_probabilities_sum_to_one_over_sets(theme: str) -> None:
    for number in range(1, MAX_ITEMS + 1):
        sets = combinations(GARMENTS, number)
        assert sum(set_probability(theme, frozenset(chosen)) for chosen in sets) == pytest.approx(1.0)


def test_posterior_is_what_the_sampler_gives() -> None:
    scenes = [make_scene(23, "train", index) for index in range(20_000)]
    by_set: dict[frozenset[str], Counter[str]] = {}
    for scene in scenes:
        by_set.setdefault(scene.garments, Counter())[scene.theme] += 1
    common = [found for found in by_set.items() if found[1].total() >= 200]
    assert len(common) >= 20
    for garments, themes in common:
        for theme, share in theme_posterior(garments).items():
            assert _near(themes[theme], themes.total(), min(max(share, 0.002), 0.998)), (garments, theme)


def test_theme_of_an_unambiguous_set_is_found() -> None:
    assert theme_posterior(frozenset({"boot", "pullover"}))["winter"] > 0.85
    assert theme_posterior(frozenset({"sneaker", "tshirt"}))["sport"] > 0.85
