"""True captions of scenes, and the closed vocabulary of the miniature world."""

from __future__ import annotations

from ovbench.tasks.world.scene import CELLS, COLOURS, GARMENTS, THEMES, Item, Scene

NUMBERS = ("one", "two", "three", "four")
RELATIONS = ("left", "right", "above", "below")
BODY_PARTS = {"feet": ("sandal", "sneaker", "boot"), "hand": ("bag",), "legs": ("trouser",)}


def scene_caption(scene: Scene) -> str:
    """Returns the full caption: `winter scene two items : red boot top-left , blue bag bottom-right .` and the like."""
    parts = " , ".join(item_caption(item) for item in scene.items)
    noun = "item" if len(scene.items) == 1 else "items"
    return f"{scene.theme} scene {NUMBERS[len(scene.items) - 1]} {noun} : {parts} ."


def item_caption(item: Item) -> str:
    """Returns the caption of one garment, e.g. `red boot top-left`."""
    return f"{item.colour} {item.garment} {CELLS[item.cell]}"


def words() -> tuple[str, ...]:
    """Returns every word that captions, questions and answers of the world can hold, in a fixed order."""
    grammar = "scene item items : , . ? what is in the colour where how many are there"
    grammar += " relative to which this for a image yes no"
    return (*GARMENTS, *COLOURS, *CELLS, *THEMES, *NUMBERS, *RELATIONS, *BODY_PARTS, *grammar.split())
