"""LLaVA's training data as published: one JSON list of conversations and one tree of images for each stage.

The lists are not changed by what is known of them: rows without use are named by a preflight and left out by choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.pictures import open_picture
from ovbench._base.seeding import numpy_generator
from ovbench.harness.understanding.conversation import Conversation
from ovbench.harness.understanding.json_rows import JsonRows
from ovbench.harness.understanding.llava_rows import conversation_of, examine
from ovbench.harness.understanding.section_config import DataSection

_VERSION = 1  # of how rows are read; a change that moves a token raises it


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSource:
    """The files of one stage."""

    json: Path
    images: Path  # image paths are below it
    share: float = 1.0  # of the rows


class LlavaJsonData:
    """Conversations of both stages; a `TrainingData`.

    Contract: the digest covers both lists and every option. It does not cover the bytes of the images, which are
    hundreds of gigabytes: who replaces a picture under its old name has to use another cache.

    Args:
        stage1: Captions.
        stage2: Conversations.
        dropped: Stage → rows that are left out, by their number in the list, from 0.

    Raises:
        DataError: A list is missing or not JSON.
    """

    def __init__(
        self, stage1: StageSource, stage2: StageSource, *, dropped: Mapping[int, Iterable[int]] | None = None
    ) -> None:
        self._sources = {1: stage1, 2: stage2}
        self._dropped = {stage: tuple(sorted(set((dropped or {}).get(stage, ())))) for stage in self._sources}
        self._rows: dict[int, JsonRows] = {}
        self._numbers: dict[int, np.ndarray] = {}
        # Where both stages have one image folder, an image is the same in both.
        same = stage1.images.resolve() == stage2.images.resolve()
        self._names = {1: "stage1", 2: "stage1" if same else "stage2"}

    @classmethod
    def below(cls, folder: Path, section: DataSection) -> LlavaJsonData:
        """Returns the data that a protocol names, in the user's data folder.

        Raises:
            DataError: The folder or a list is missing.
        """
        if not folder.is_dir():
            raise DataError(
                f"there is no data folder '{folder}'", where="--data", fix="name the folder of LLaVA's data"
            )
        stage1, stage2 = (
            StageSource(json=folder / part.json, images=folder / part.images, share=part.share)
            for part in (section.stage1, section.stage2)
        )
        data = cls(stage1, stage2)
        for stage in (1, 2):
            data.rows(stage)
        return data

    def rows(self, stage: int) -> JsonRows:
        """Returns the whole list of a stage, as it is in the file."""
        if stage not in self._rows:
            self._rows[stage] = JsonRows(self._sources[stage].json)
        return self._rows[stage]

    def numbers(self, stage: int) -> np.ndarray:
        """Returns the number in the list, from 0, of each conversation that is used; int64, rising."""
        if stage not in self._numbers:
            chosen = self._drawn(stage)
            self._numbers[stage] = chosen[~np.isin(chosen, self._dropped[stage])]
            if not len(self._numbers[stage]):
                raise DataError(f"stage {stage} has no conversations", where=str(self._sources[stage].json))
        return self._numbers[stage]

    def _drawn(self, stage: int) -> np.ndarray:
        """Returns the share; rows that are dropped later do not move it."""
        total, share = len(self.rows(stage)), self._sources[stage].share
        if share == 1.0:
            return np.arange(total)
        order = numpy_generator(0, "llava/share", stage).permutation(total)
        return np.sort(order[: int(share * total)])

    @property
    def digest(self) -> str:
        """The sha256 over both lists, the shares and the rows left out."""
        return fingerprint({"llava": _VERSION, "stages": [self._identity(stage) for stage in (1, 2)]})

    def stage_digest(self, stage: int) -> str:
        """Returns what `digest` does for one stage."""
        return fingerprint({"llava": _VERSION, "stage": self._identity(stage)})

    def _identity(self, stage: int) -> dict[str, Any]:
        source = self._sources[stage]
        return {
            "json": self._json_digests[stage],
            "share": source.share,
            "dropped": self._dropped[stage],
            "images": self._names[stage],
        }

    @cached_property
    def _json_digests(self) -> dict[int, str]:
        for stage in self._sources:
            self.rows(stage)  # says what is wrong with a missing file
        return {stage: file_sha256(source.json) for stage, source in self._sources.items()}

    def size(self, stage: int) -> int:
        """Returns the number of conversations of a stage."""
        return len(self.numbers(stage))

    def conversation(self, stage: int, index: int, visit: int) -> Conversation:
        """Returns conversation `index`, the same at each visit.

        Raises:
            DataError: It cannot be trained on; the row is named.
        """
        del visit
        number = int(self.numbers(stage)[index])
        row = self.rows(stage)[number]
        for finding in examine(row, stage):
            if finding.fault:
                detail = f" ({finding.detail})" if finding.detail else ""
                raise DataError(
                    f"row {number + 1} cannot be trained on: {finding.kind}{detail}",
                    where=str(self._sources[stage].json),
                    fix="correct it, or leave bad rows out by choice: --bad-rows drop",
                )
        image = row.get("image")
        return conversation_of(row, None if image is None else self.image_id(stage, image))

    def image_id(self, stage: int, image: str) -> str:
        """Returns the name under which an image of a stage's list is known."""
        return f"{self._names[stage]}/{image}"

    def image_ids(self, stage: int) -> tuple[str, ...]:
        """Returns the ids of the images of a stage, each once, in the order of the list."""
        images = self.rows(stage).images
        named = (images[number] for number in self.numbers(stage).tolist())
        return tuple(dict.fromkeys(self.image_id(stage, image) for image in named if isinstance(image, str)))

    def image_path(self, image_id: str) -> Path:
        """Returns the file of an image.

        Raises:
            DataError: The name leads out of the image folder.
        """
        name, _, relative = image_id.partition("/")
        stages = [stage for stage, known in self._names.items() if known == name]
        if not stages or relative.startswith("/") or ".." in Path(relative).parts:
            raise DataError(f"there is no training image '{image_id}'", where="training data")
        return self._sources[stages[0]].images / relative

    def image(self, image_id: str) -> np.ndarray:
        """Returns an image: uint8 [H, W, 3], RGB, in its own size.

        Raises:
            DataError: It is missing or cannot be decoded.
        """
        return np.asarray(open_picture(self.image_path(image_id)))

    def json_path(self, stage: int) -> Path:
        """Returns the list of a stage."""
        return self._sources[stage].json

    def image_folder(self, stage: int) -> Path:
        """Returns the folder that image paths of a stage are below."""
        return self._sources[stage].images

    def without(self, stage: int, numbers: Iterable[int]) -> LlavaJsonData:
        """Returns the same data without some rows, named by their number in the list, from 0."""
        dropped = {**self._dropped, stage: (*self._dropped[stage], *numbers)}
        other = LlavaJsonData(self._sources[1], self._sources[2], dropped=dropped)
        other._rows = dict(self._rows)
        other.__dict__["_json_digests"] = self._json_digests
        return other
