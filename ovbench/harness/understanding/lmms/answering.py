"""Questions with pictures → greedy answers, by any LLaVA of ours; what lmms-eval's requests are turned into.

Each distinct picture is encoded once and each distinct (picture, question, length) is asked once. Answers depend
neither on the batch size nor on what else is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.pictures import to_rgb
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.feature_shards import image_digest
from ovbench.harness.features import BATCH_SIZE, Features
from ovbench.harness.understanding.conversation import IMAGE_MARK, Tokenized, question_prompt, tokenize
from ovbench.harness.understanding.decoding import greedy, prefill
from ovbench.harness.understanding.evaluate import CLOSE_CALL
from ovbench.harness.understanding.llava import Llava

if TYPE_CHECKING:
    from PIL.Image import Image

_STEP = 32  # tokens; how far apart questions near the end of the context may be and still share a batch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """One question about at most one picture."""

    image: Image | None
    text: str  # without the image mark and the template
    max_new_tokens: int  # longest answer; less where the context ends before


class Answerer(Protocol):
    """Anything that answers questions."""

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Returns the stripped greedy answers, in the order of the questions."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A distinct question."""

    digest: str | None  # of its picture
    text: str
    max_new_tokens: int


class LlavaAnswerer:
    """Answers with an encoder and a trained LLaVA, in the precision that the model is in.

    Trap: lmms-eval deletes every `nn.Module` attribute of a model object after its first evaluation. This object is no
    module, so that what it holds survives.

    Args:
        model: In evaluation mode.
        encoder: Whose tokens it was trained on.
        tap: Layer and norm of the tokens.
        feature_dtype: Type that tokens go through, a name of `features.DTYPES`; that of the training.
        batch_size: Questions read together; changes no answer.
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
        self.num_asked = 0  # questions that the language model was asked, without the close calls asked again

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Returns the stripped greedy answers, in the order of the questions.

        Raises:
            ConfigError: An answer of less than one token is asked for.
            DataError: A picture cannot be shown as RGB, or a question leaves no room for an answer.
        """
        if wrong := next((item for item in questions if item.max_new_tokens < 1), None):
            raise ConfigError(f"max_new_tokens must be 1 or more, got {wrong.max_new_tokens}", where="answering")
        pictures, asked = _distinct(questions)
        answers: dict[_Asked, str] = {}
        told = self._told(pictures)
        blind = [item for item in dict.fromkeys(asked) if item.digest is None]
        self._answer(blind, lambda _: None, 0, answers)
        by_image: dict[str, list[_Asked]] = {digest: [] for digest in pictures}
        for item in dict.fromkeys(asked):
            if item.digest is not None:
                by_image[item.digest].append(item)
        digests = list(pictures)
        for start in range(0, len(digests), BATCH_SIZE):
            block = digests[start : start + BATCH_SIZE]
            tokens = told(block)
            place = {digest: number for number, digest in enumerate(block)}

            def visual(items: Sequence[_Asked], tokens: torch.Tensor = tokens, place: dict[str, int] = place):
                return tokens[torch.tensor([place[item.digest] for item in items if item.digest is not None])]

            self._answer([item for digest in block for item in by_image[digest]], visual, tokens.shape[1], answers)
        self.num_encoded += told.num_encoded
        return [answers[item] for item in asked]

    def _told(self, pictures: dict[str, np.ndarray]) -> Features:
        return Features(self.encoder, list(pictures), pictures.__getitem__, None, tap=self.tap, dtype=self.feature_dtype)

    def _answer(
        self,
        items: Sequence[_Asked],
        visual: Callable[[Sequence[_Asked]], torch.Tensor | None],
        num_visual: int,
        answers: dict[_Asked, str],
    ) -> None:
        """Answers distinct questions in batches of equal longest answer; all have a picture, or none."""
        prompts = {item: self._prompt(item) for item in items}
        lengths = {item: self._length(item, prompts[item], num_visual) for item in items}
        for longest in sorted(set(lengths.values())):
            group = [item for item in items if lengths[item] == longest]
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                heard = self._ask(batch, prompts, visual, longest)
                for item, (text, gap) in zip(batch, heard, strict=True):
                    # What rounding could have decided is decided alone, where nothing else is in the sums.
                    again = len(batch) > 1 and gap < CLOSE_CALL
                    answers[item] = self._ask([item], prompts, visual, longest)[0][0] if again else text
                self.num_asked += len(batch)

    def _ask(
        self,
        batch: Sequence[_Asked],
        prompts: dict[_Asked, Tokenized],
        visual: Callable[[Sequence[_Asked]], torch.Tensor | None],
        longest: int,
    ) -> list[tuple[str, float]]:
        state = prefill(self.model, [prompts[item] for item in batch], visual(batch))
        texts, gaps = greedy(self.model, state, max_new_tokens=longest)
        return list(zip(texts, gaps, strict=True))

    def _prompt(self, item: _Asked) -> Tokenized:
        has_image = item.digest is not None
        # A task may mark the place of its picture; LLaVA moves the mark to the head of the question.
        text = item.text.replace(IMAGE_MARK, "").strip() if IMAGE_MARK in item.text and has_image else item.text
        return tokenize(
            self.model.tokenizer,
            question_prompt(self.model.form, text, has_image=has_image),
            has_image=has_image,
        )

    def _length(self, item: _Asked, prompt: Tokenized, num_visual: int) -> int:
        """Returns the longest answer to a question: what was asked for, or what the context has room for."""
        longest = min(
            self.model.max_length,
            int(getattr(self.model.language_model.config, "max_position_embeddings", self.model.max_length)),
        )
        room = longest - len(prompt.ids) - (num_visual if item.digest is not None else 0)
        if room < 1:
            raise DataError(
                f"a question of {longest - room} positions leaves no room for an answer in a context of {longest}",
                where=f"the question that begins with '{item.text[:60]}'",
                fix="leave its task out, or train with a language model of a longer context",
            )
        if room >= item.max_new_tokens:
            return item.max_new_tokens
        return room - room % _STEP if room > _STEP else room


def _distinct(questions: Sequence[Question]) -> tuple[dict[str, np.ndarray], list[_Asked]]:
    """Returns the distinct pictures by digest, and for each question what is asked."""
    pictures: dict[str, np.ndarray] = {}
    seen: dict[int, str] = {}  # id of an image object → digest; the objects live as long as `questions`
    asked: list[_Asked] = []
    for item in questions:
        digest: str | None = None
        if item.image is not None:
            if (digest := seen.get(id(item.image))) is None:
                picture = np.asarray(to_rgb(item.image))
                digest = seen[id(item.image)] = image_digest(picture)
                pictures.setdefault(digest, picture)
        asked.append(_Asked(digest=digest, text=item.text, max_new_tokens=item.max_new_tokens))
    return pictures, asked
