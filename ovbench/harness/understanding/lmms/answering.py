"""Questions with pictures → greedy answers, by any LLaVA of ours; what lmms-eval's requests are turned into.

Each distinct picture is encoded once and each distinct (picture, question, length) is asked once. Answers depend
neither on the batch size nor on what else is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.pictures import to_rgb
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.feature_shards import image_digest
from ovbench.harness.features import Features
from ovbench.harness.understanding.conversation import IMAGE_MARK
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.lmms.greedy_answers import Asked, greedy_answers
from ovbench.harness.understanding.wording import prompt_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """One question about at most one picture."""

    image: Image | None
    text: str  # without the template; a mark for the picture's place is moved to the head, as LLaVA does
    max_new_tokens: int  # longest answer; less where the context ends before


class Answerer(Protocol):
    """Anything that answers questions."""

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Returns the stripped greedy answers, in the order of the questions."""
        ...


class LlavaAnswerer:
    """Answers with an encoder and a trained LLaVA, in the precision that the model is in.

    Holds the pictures of one call and their tokens in memory, so callers with many pictures ask in turns.

    Trap: lmms-eval deletes every `nn.Module` attribute of a model object after its first evaluation. This object is no
    module, so that what it holds survives.

    Args:
        model: In evaluation mode.
        encoder: Whose tokens it was trained on.
        tap: Layer and norm of the tokens.
        feature_dtype: Type that tokens go through, a name of `features.DTYPES`; that of the training.
        batch_size: Questions read together; changes no answer.

    Raises:
        ConfigError: The model is in training mode, or the batch size is below 1.
    """

    def __init__(
        self, model: Llava, encoder: Encoder, *, tap: Tap, feature_dtype: str = "float32", batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"the batch size must be 1 or more, got {batch_size}", where="batch_size")
        if model.training:
            raise ConfigError("the model is in training mode", where="answering", fix="call model.eval() first")
        self.model, self.encoder, self.tap = model, encoder, tap
        self.feature_dtype, self.batch_size = feature_dtype, batch_size
        self.num_encoded = 0  # pictures that went through the encoder so far
        self.num_asked = 0  # distinct questions that the language model got so far

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Returns the stripped greedy answers, in the order of the questions.

        Raises:
            ConfigError: An answer of less than one token is asked for.
            DataError: A picture cannot be shown as RGB, or a question leaves no room for an answer.
        """
        if wrong := next((item for item in questions if item.max_new_tokens < 1), None):
            raise ConfigError(f"max_new_tokens must be 1 or more, got {wrong.max_new_tokens}", where="answering")
        pictures, asked = _distinct(questions)
        place = {digest: number for number, digest in enumerate(pictures)}
        rows: torch.Tensor | None = None
        if pictures:
            features = Features(
                self.encoder, list(pictures), pictures.__getitem__, None, tap=self.tap, dtype=self.feature_dtype
            )
            rows = features(list(pictures))
            self.num_encoded += features.num_encoded
        num_visual = 0 if rows is None else rows.shape[1]

        def tokens(digests: Sequence[str]) -> torch.Tensor:
            assert rows is not None
            return rows[torch.tensor([place[digest] for digest in digests])]

        bounded = {item: self._bounded(item, num_visual) for item in dict.fromkeys(asked)}
        # Questions of one picture stand together, in the order in which the pictures first appear.
        order = sorted(dict.fromkeys(bounded.values()), key=lambda item: place.get(item.image_id or "", -1))
        texts = greedy_answers(self.model, order, tokens, batch_size=self.batch_size)
        self.num_asked += len(order)
        answers = dict(zip(order, texts, strict=True))
        return [answers[bounded[item]] for item in asked]

    def _bounded(self, item: Asked, num_visual: int) -> Asked:
        """Returns a question whose longest answer is no longer than the context has room for."""
        config = self.model.language_model.config
        longest = min(self.model.max_length, getattr(config, "max_position_embeddings", self.model.max_length))
        has_image = item.image_id is not None
        _, prompt = prompt_of(self.model, item.question, has_image=has_image)
        length = len(prompt.ids) + (num_visual if has_image else 0)
        room = longest - length
        if room < 1:
            raise DataError(
                f"a question of {length} positions leaves no room for an answer in a context of {longest}",
                where=f"the question that begins with '{item.question[:60]}'",
                fix="leave its task out, or train with a language model of a longer context",
            )
        return item if room >= item.max_new_tokens else replace(item, max_new_tokens=room)


def _distinct(questions: Sequence[Question]) -> tuple[dict[str, np.ndarray], list[Asked]]:
    """Returns the distinct pictures by digest, and for each question what is asked."""
    pictures: dict[str, np.ndarray] = {}
    seen: dict[int, str] = {}  # id of an image object → digest; the objects live as long as `questions`
    asked: list[Asked] = []
    for item in questions:
        digest: str | None = None
        text = item.text
        if item.image is not None:
            if (digest := seen.get(id(item.image))) is None:
                picture = np.asarray(to_rgb(item.image))
                digest = seen[id(item.image)] = image_digest(picture)
                pictures.setdefault(digest, picture)
            if IMAGE_MARK in text:
                text = text.replace(IMAGE_MARK, "").strip()
        asked.append(Asked(image_id=digest, question=text, max_new_tokens=item.max_new_tokens))
    return pictures, asked
