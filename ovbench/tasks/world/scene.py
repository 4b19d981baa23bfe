"""Scene graphs: which garments lie where, in which colour. No pixels here, and no third-party package."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import permutations

from ovbench._base.seeding import derive

# Fashion-MNIST class numbers; `coat` (4) and `shirt` (6) are left out because people confuse them with
# `pullover` and `tshirt` at 28 px, which would cap every identity question (docs/design/0002-eight-garments.md).
FASHION_MNIST_CLASS = {
    "tshirt": 0,
    "trouser": 1,
    "pullover": 2,
    "dress": 3,
    "sandal": 5,
    "sneaker": 7,
    "bag": 8,
    "boot": 9,
}
GARMENTS = tuple(FASHION_MNIST_CLASS)
TINTS = {
    "red": (255, 64, 64),
    "green": (64, 224, 64),
    "blue": (80, 112, 255),
    "yellow": (255, 224, 48),
    "magenta": (240, 64, 240),
    "white": (255, 255, 255),
}
COLOURS = tuple(TINTS)
CELLS = ("top-left", "top-right", "bottom-left", "bottom-right")  # raster order on the 2 x 2 grid
THEMES = ("sport", "office", "winter", "summer")
_FAVOURED = {
    "sport": {"sneaker": 8.0, "tshirt": 6.0, "trouser": 2.0},
    "office": {"trouser": 8.0, "bag": 6.0, "dress": 2.0},
    "winter": {"boot": 8.0, "pullover": 6.0, "bag": 2.0},
    "summer": {"sandal": 8.0, "dress": 6.0, "tshirt": 2.0},
}
_OTHER_WEIGHT = 0.3
MAX_ITEMS = 4
SCENE_PX = 64
CELL_PX = 32
MAX_JITTER_PX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One garment in a scene."""

    garment: str
    colour: str
    cell: int  # index into CELLS
    sprite: int  # picks the photograph: taken modulo the number of photographs of the class
    flip: bool  # mirrored left-right
    dx: int  # pixels from the left edge of the cell, 0…4
    dy: int  # pixels from the top edge of the cell, 0…4


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One 64 x 64 picture as a graph; `items` are in raster order of their cells."""

    split: str  # `train` or `test`: which photographs may be used
    index: int
    theme: str
    items: tuple[Item, ...]
    background: tuple[int, int, int]  # RGB, 0…50
    gradient: int  # grey levels added from the top edge to the bottom edge, -12…12

    @property
    def image_id(self) -> str:
        """The name of the image, unique within the world."""
        return f"{self.split}-{self.index:06d}"

    @property
    def garments(self) -> frozenset[str]:
        """The garments that are in the scene."""
        return frozenset(item.garment for item in self.items)


def theme_weight(theme: str, garment: str) -> float:
    """Returns the weight with which a theme draws a garment."""
    return _FAVOURED[theme].get(garment, _OTHER_WEIGHT)


def _draw_garments(rng: random.Random, theme: str, count: int) -> list[str]:
    left = list(GARMENTS)
    drawn: list[str] = []
    for _ in range(count):
        garment = rng.choices(left, weights=[theme_weight(theme, name) for name in left])[0]
        left.remove(garment)
        drawn.append(garment)
    return drawn


def _item(rng: random.Random, garment: str, cell: int) -> Item:
    return Item(
        garment=garment,
        colour=rng.choice(COLOURS),
        cell=cell,
        sprite=rng.getrandbits(31),
        flip=rng.random() < 0.5,
        dx=rng.randint(0, MAX_JITTER_PX),
        dy=rng.randint(0, MAX_JITTER_PX),
    )


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Returns scene `index` of a split; it depends on its arguments alone.

    Theme, number of items (1…4), colours, cells and jitter are uniform; garments are distinct and drawn without
    replacement from the theme's weights.
    """
    rng = random.Random(derive(seed, "world/scene", split, index))
    theme = rng.choice(THEMES)
    cells = sorted(rng.sample(range(len(CELLS)), rng.randint(1, MAX_ITEMS)))
    garments = _draw_garments(rng, theme, len(cells))
    rng.shuffle(garments)
    return Scene(
        split=split,
        index=index,
        theme=theme,
        items=tuple(_item(rng, garment, cell) for garment, cell in zip(garments, cells, strict=True)),
        background=(rng.randint(0, 50), rng.randint(0, 50), rng.randint(0, 50)),
        gradient=rng.randint(-12, 12),
    )


def make_single(seed: int, split: str, index: int) -> Scene:
    """Returns a one-garment image, uniform over garments, colours and cells; drawn as that cell alone (32 x 32)."""
    rng = random.Random(derive(seed, "world/single", split, index))
    item = _item(rng, rng.choice(GARMENTS), rng.randrange(len(CELLS)))
    return Scene(
        split=split,
        index=index,
        theme=rng.choice(THEMES),
        items=(item,),
        background=(rng.randint(0, 50), rng.randint(0, 50), rng.randint(0, 50)),
        gradient=rng.randint(-12, 12),
    )


def hard_negatives(scene: Scene, seed: int, count: int) -> tuple[Scene, ...]:
    """Returns `count` scenes that differ from `scene` in the garments alone: same theme, cells, colours, background."""
    made: list[Scene] = []
    for number in range(count):
        rng = random.Random(derive(seed, "world/hard-negative", scene.split, scene.index, number))
        garments = rng.sample(GARMENTS, len(scene.items))
        items = tuple(
            replace(item, garment=garment, sprite=rng.getrandbits(31), flip=rng.random() < 0.5)
            for item, garment in zip(scene.items, garments, strict=True)
        )
        made.append(replace(scene, items=items))
    return tuple(made)


_SET_PROBABILITY: dict[tuple[str, frozenset[str]], float] = {}


def set_probability(theme: str, garments: frozenset[str]) -> float:
    """Returns P(set | theme, size) for drawing without replacement: the sum over all orders."""
    key = (theme, garments)
    if key not in _SET_PROBABILITY:
        total = sum(theme_weight(theme, name) for name in GARMENTS)
        probability = 0.0
        for order in permutations(sorted(garments)):
            remaining, product = total, 1.0
            for name in order:
                weight = theme_weight(theme, name)
                product *= weight / remaining
                remaining -= weight
            probability += product
        _SET_PROBABILITY[key] = probability
    return _SET_PROBABILITY[key]


def theme_posterior(garments: frozenset[str]) -> dict[str, float]:
    """Returns P(theme | garments) under the generator, with uniform themes."""
    likelihood = {theme: set_probability(theme, garments) for theme in THEMES}
    total = sum(likelihood.values())
    return {theme: value / total for theme, value in likelihood.items()}
