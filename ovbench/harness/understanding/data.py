"""What is trained on: conversations about images, in an order that depends on (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.seeding import derive, numpy_generator
from ovbench.harness.understanding.conversation import (
    Conversation,
    Message,
    Template,
    Tokenized,
    apply_image_rule,
    render,
    tokenize,
)
from ovbench.tasks.world.captions import scene_caption
from ovbench.tasks.world.questions import dialogue_turns
from ovbench.tasks.world.scene import Scene, make_scene
from ovbench.tasks.world.source import GENERATOR_VERSION

if TYPE_CHECKING:
    from ovbench.tasks.world.draw import Sprites

TokenSource = Callable[[Sequence[str]], torch.Tensor]  # image ids -> float32 [B, N, C]


class TrainingData(Protocol):
    """Conversations for both stages, in any number and from any source."""

    @property
    def digest(self) -> str:
        """The sha256 of everything that can change a conversation or a pixel."""
        ...

    def size(self, stage: int) -> int:
        """Returns the number of conversations of a stage."""
        ...

    def conversation(self, stage: int, index: int, visit: int) -> Conversation:
        """Returns conversation `index`; `visit` counts the passes over the data, for sources that vary."""
        ...

    def image_ids(self, stage: int) -> tuple[str, ...]:
        """Returns the ids of the images of a stage, each once."""
        ...

    def image(self, image_id: str) -> np.ndarray:
        """Returns an image, uint8 `[H, W, 3]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorldTrainingData:
    """Training scenes of the garment world: captions in stage 1, questions and answers in stage 2."""

    seed: int  # of the world: which scenes, and which questions are asked about them
    num_scenes: int = 6000  # `train-000000` …
    num_turns: int = 8  # questions per conversation, at most
    new_questions: bool = True  # ask other questions in each pass

    def __post_init__(self) -> None:
        if self.num_scenes < 1 or self.num_turns < 1:
            raise ConfigError(
                f"num_scenes and num_turns must be positive, got {self.num_scenes}, {self.num_turns}",
                where="training data",
            )

    @property
    def digest(self) -> str:
        """The sha256 of the settings, the world's version and the photographs."""
        return fingerprint({"world": GENERATOR_VERSION, "settings": asdict(self), "sprites": self._sprites.digest})

    def image_ids(self, stage: int) -> tuple[str, ...]:
        """Returns the ids of all images that training asks for, the same in both stages."""
        del stage
        return self._image_ids

    @cached_property
    def _image_ids(self) -> tuple[str, ...]:
        return tuple(self.scene(index).image_id for index in range(self.num_scenes))

    @cached_property
    def _sprites(self) -> Sprites:
        from ovbench.tasks.world.draw import embedded_sprites

        return embedded_sprites("train")

    def image(self, image_id: str) -> np.ndarray:
        """Returns an image, uint8 `[H, W, 3]`.

        Raises:
            DataError: No training scene has that name.
        """
        from ovbench.tasks.world.draw import draw_scene

        split, _, number = image_id.partition("-")
        if split != "train" or not number.isdecimal() or int(number) >= self.num_scenes:
            raise DataError(f"there is no training image '{image_id}'", where="training data")
        return draw_scene(self.scene(int(number)), self._sprites)

    def scene(self, index: int) -> Scene:
        """Returns a training scene."""
        return make_scene(self.seed, "train", index)

    def size(self, stage: int) -> int:
        """Returns the number of scenes."""
        del stage
        return self.num_scenes

    def conversation(self, stage: int, index: int, visit: int) -> Conversation:
        """Returns the caption of a scene (stage 1) or a dialogue about it (stage 2)."""
        scene = self.scene(index)
        if stage == 1:
            pairs = [("", scene_caption(scene))]
        else:
            seed = derive(self.seed, "llava/visit", visit) if self.new_questions else self.seed
            pairs = [(turn.text, turn.answer) for turn in dialogue_turns(scene, seed, self.num_turns)]
        messages: list[Message] = []
        for number, (asked, answer) in enumerate(pairs):
            text = f"<image>\n{asked}" if number == 0 else asked
            messages += [Message(role="human", text=text), Message(role="gpt", text=answer)]
        return Conversation(messages=tuple(messages), image_id=scene.image_id)


class Order:
    """Which samples a step takes: the data are shuffled anew for every pass, and passes follow without a gap."""

    def __init__(self, seed: int, stage: int, size: int) -> None:
        self._seed, self._stage, self._size = seed, stage, size
        self._passes: dict[int, np.ndarray] = {}

    def __call__(self, step: int, batch_size: int) -> list[tuple[int, int]]:
        """Returns (index, pass) of each sample of a step."""
        found: list[tuple[int, int]] = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            visit, place = divmod(position, self._size)
            if visit not in self._passes:
                generator = numpy_generator(self._seed, "llava/order", self._stage, visit)
                self._passes = {visit - 1: self._passes.get(visit - 1, np.empty(0, np.int64))} if visit else {}
                self._passes[visit] = generator.permutation(self._size)
            found.append((int(self._passes[visit][place]), visit))
        return found


def tokenize_conversation(
    conversation: Conversation, tokenizer: Any, form: Template, *, strict_reference: bool
) -> Tokenized:
    """Returns ids and labels of one conversation in a template."""
    has_image = conversation.image_id is not None
    messages = apply_image_rule(conversation.messages) if has_image else conversation.messages
    rendered = render(form, messages, strict_reference=strict_reference)
    return tokenize(tokenizer, rendered.text, rendered.spans, has_image=has_image)
