"""The world as the source of a task: questions by a generator, pictures drawn when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import fingerprint
from ovbench.tasks.rows import Loaded, Row
from ovbench.tasks.world.questions import pope_questions, seed_questions
from ovbench.tasks.world.scene import make_scene

if TYPE_CHECKING:
    import numpy

GENERATOR_VERSION = 1  # raised when the same seed gives other scenes, other pixels or other questions


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPictures:
    """Pictures of one seed and split of the world, named `test-000017`."""

    seed: int
    split: str

    def digest(self, image_ids: tuple[str, ...]) -> str:
        """Returns a sha256 over everything that the pictures are made from, whatever the order."""
        from ovbench.tasks.world.draw import embedded_sprites

        return fingerprint(
            {
                "generator": GENERATOR_VERSION,
                "seed": self.seed,
                "split": self.split,
                "sprites": embedded_sprites(self.split).digest,
                "images": sorted(image_ids),
            }
        )

    def __call__(self, image_id: str) -> numpy.ndarray:
        """Returns the picture of a scene: uint8 [64, 64, 3], RGB.

        Raises:
            DataError: The name is none of this split.
        """
        from ovbench.tasks.world.draw import draw_scene, embedded_sprites

        split, _, number = image_id.rpartition("-")
        if split != self.split or not number.isdecimal():
            raise DataError(f"'{image_id}' is no picture of the world's {self.split} split", where="image id")
        return draw_scene(make_scene(self.seed, split, int(number)), embedded_sprites(split))


def load_world(source: Mapping[str, Any]) -> Loaded:
    """Returns the questions of a checked world source (see `sources.parse_source`)."""
    seed, split, num_scenes = source["seed"], source["split"], source["num_scenes"]
    if source["generator"] == "seed":
        asked = seed_questions(seed, split, num_scenes=num_scenes, per_kind=source["per_kind"])
    else:
        asked = pope_questions(seed, split, num_scenes=num_scenes, per_split=source["per_split"])
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    for entry in asked:
        rows.append(
            Row(
                item_id=f"{entry.group}-{counts[entry.group]:04d}",
                image_id=entry.scene.image_id,
                question=entry.question.text,
                options=entry.options,
                answer=entry.question.answer,
                group=entry.group,
            )
        )
        counts[entry.group] += 1
    pictures = WorldPictures(seed=seed, split=split)
    digest = fingerprint({"generator": GENERATOR_VERSION, "source": dict(source)})
    return Loaded(rows=tuple(rows), digest=digest, image=pictures, digest_images=pictures.digest)
