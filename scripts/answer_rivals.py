"""A random LLaVA of a given size, loads in the shape of benchmarks, and two ways of answering them.

A part of `speed_answers.py`; it does nothing by itself. Both ways use the same modules, so the weights are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovbench._base.lazy import require
from ovbench.harness.pretraining.text.tokenizer import PUNCTUATION, write_tokenizer
from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.conversation import template
from ovbench.harness.understanding.engine import AnswerEngine, Packing
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.wording import prompt_of

SEED = 0
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
_NAMES = (
    "person car chair table cup bottle bowl bench truck bird dog cat horse sheep cow backpack umbrella tie suitcase "
    "frisbee kite skateboard surfboard fork knife spoon banana apple orange pizza donut cake couch bed laptop mouse "
    "remote keyboard oven sink book clock vase"
)
_THINGS = tuple(_NAMES.split())
_PLACES = ("left", "right", "top", "bottom", "middle", "back", "front", "corner")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A language model with a vision tower that costs the same share of a prompt as ViT-L/14 does beside 7B (5%)."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    tower_width: int
    tower_layers: int
    tower_heads: int
    side_px: int = 336
    patch_px: int = 14

    @property
    def num_visual(self) -> int:
        """Visual tokens of an image."""
        return (self.side_px // self.patch_px) ** 2


SIZES = {
    "27m": Size(width=512, layers=8, heads=8, mlp_width=1376, tower_width=128, tower_layers=7, tower_heads=4),
    "7b": Size(width=4096, layers=32, heads=32, mlp_width=11008, tower_width=1024, tower_layers=24, tower_heads=16),
    "tiny": Size(width=64, layers=2, heads=4, mlp_width=96, tower_width=32, tower_layers=3, tower_heads=2, side_px=56),
}


def pope_load(num_images: int, *, repeats: bool = True) -> list[Request]:
    """Returns 18 questions per image: three subsets of three yes and three no.

    Args:
        num_images: Images.
        repeats: As in POPE, the yes questions are the same in all subsets and some negatives are too: 5127 of 9000
            are distinct. Otherwise all 18 differ.
    """
    found: list[Request] = []
    for image in range(num_images):
        things = [_THINGS[(5 * image + place) % len(_THINGS)] for place in range(18)]
        num_negatives = 8 if image * 127 % 500 < 127 else 7  # 127 of 500 images
        for subset in range(3):
            if repeats:
                asked = [*things[:3], *(things[3 + (3 * subset + place) % num_negatives] for place in range(3))]
            else:
                asked = things[6 * subset : 6 * subset + 6]
            found += [_request(image, f"Is there a {thing} in the image?{SHORT}") for thing in asked]
    return found


def seed_load(num_images: int) -> list[Request]:
    """Returns three four-choice questions per image."""
    found: list[Request] = []
    for image in range(num_images):
        for number in range(3):
            things = [_THINGS[(7 * image + 11 * number + place) % len(_THINGS)] for place in range(5)]
            places = [_PLACES[(image + number + place) % len(_PLACES)] for place in range(4)]
            options = "".join(
                f"\n{letter}. On the {place} of the image next to the {thing}"
                for letter, place, thing in zip("ABCD", places, things[1:], strict=True)
            )
            question = f"Where in the image is the {things[0]} relative to the other objects that can be seen?"
            found.append(_request(image, f"{question}{options}{LETTER}"))
    return found


def _request(image: int, question: str) -> Request:
    # 128 is what LLaVA-1.5 and lmms-eval's POPE allow; answers end long before.
    return Request(image_id=f"image-{image}", question=question, max_new_tokens=128)


class Rivals:
    """Both ways of answering.

    Args:
        size: Of the model.
        device: Where it is.
        dtype: Its precision.
        load: Questions, for the vocabulary and for where answers end.
    """

    def __init__(self, size: Size, *, device: torch.device, dtype: torch.dtype, load: Sequence[Request]) -> None:
        transformers = require("transformers", purpose="speed_answers")
        form = template("v1")
        text = " ".join([form.system, *(request.question for request in load)]).lower()
        for mark in PUNCTUATION:
            text = text.replace(mark, f" {mark} ")
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder), sorted(set(text.split())), max_length=2048)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._size, self._device, self._dtype = size, device, dtype
        self._end = self._tokenizer.eos_token_id
        torch.manual_seed(SEED)
        torch.set_default_dtype(dtype)
        try:
            with device:
                self._whole = self._build(transformers).eval().requires_grad_(False)
                language_model = transformers.LlamaForCausalLM(self._whole.config.text_config)
        finally:
            torch.set_default_dtype(torch.float32)
        language_model.model, language_model.lm_head = self._whole.model.language_model, self._whole.lm_head
        projector = self._whole.model.multi_modal_projector
        self.model = Llava(
            language_model.eval(),
            self._tokenizer,
            nn.Sequential(projector.linear_1, projector.act, projector.linear_2),
            form,
        ).eval()
        self._pixels: dict[str, torch.Tensor] = {}
        self._end_answers(load)

    def _build(self, transformers: Any) -> Any:
        size, vocab = self._size, len(self._tokenizer) + 1  # the last id stands for visual rows
        text = transformers.LlamaConfig(
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            intermediate_size=size.mlp_width,
            vocab_size=vocab,
            initializer_range=size.width**-0.5,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=self._end,
            pad_token_id=0,
        )
        vision = transformers.CLIPVisionConfig(
            hidden_size=size.tower_width,
            num_hidden_layers=size.tower_layers,
            num_attention_heads=size.tower_heads,
            intermediate_size=4 * size.tower_width,
            image_size=size.side_px,
            patch_size=size.patch_px,
        )
        config = transformers.LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=vocab - 1,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            projector_hidden_act="gelu",
        )
        config._attn_implementation = "sdpa"
        return transformers.LlavaForConditionalGeneration(config)

    @property
    def num_parameters(self) -> int:
        """Parameters of the language model."""
        return sum(parameter.numel() for parameter in self.model.language_model.parameters())

    @torch.inference_mode()
    def ours(self, load: Sequence[Request], *, packing: Packing = "auto") -> tuple[list[tuple[int, ...]], AnswerEngine]:
        """Returns the engine's answers as ids, and the engine."""
        engine = AnswerEngine(self.model, self.encode, packing=packing)
        return [reply.ids for reply in engine.ask(load)], engine

    @torch.inference_mode()
    def theirs(self, load: Sequence[Request]) -> list[tuple[int, ...]]:
        """Returns what lmms-eval's `llava_hf` does: one request at a time, from the pixels to the answer."""
        found: list[tuple[int, ...]] = []
        for request in load:
            assert request.image_id is not None
            ids = self._ids(request)
            pixels = self._pixels_of(request.image_id)[None]
            table = torch.tensor([ids], device=self._device)
            written = self._whole.generate(
                input_ids=table,
                attention_mask=torch.ones_like(table),
                pixel_values=pixels,
                do_sample=False,
                num_beams=1,
                max_new_tokens=request.max_new_tokens,
                use_cache=True,
                pad_token_id=self._end,
                eos_token_id=self._end,
            )[0, len(ids) :].tolist()
            found.append(tuple(written[: written.index(self._end)] if self._end in written else written))
        return found

    def _ids(self, request: Request) -> list[int]:
        """Returns a prompt as transformers' processor lays it out: a mark for each visual row."""
        _, prompt = prompt_of(self.model, request.question, has_image=True)
        assert prompt.image_at is not None
        marks = [self._whole.config.image_token_id] * self._size.num_visual
        return [*prompt.ids[: prompt.image_at], *marks, *prompt.ids[prompt.image_at :]]

    def _pixels_of(self, image_id: str) -> torch.Tensor:
        """Returns an image as the tower takes it; decoding and resizing are timed on neither side."""
        if image_id not in self._pixels:
            generator = torch.Generator().manual_seed(int(image_id.split("-")[1]))
            shape = (3, self._size.side_px, self._size.side_px)
            self._pixels[image_id] = torch.randn(shape, generator=generator).to(self._device, self._dtype)
        return self._pixels[image_id]

    def encode(self, image_ids: Sequence[str]) -> torch.Tensor:
        """Returns the visual tokens of images."""
        pixels = torch.stack([self._pixels_of(image_id) for image_id in image_ids])
        return self._whole.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]

    @torch.inference_mode()
    def _end_answers(self, load: Sequence[Request]) -> None:
        """Sets the end mark's row of the head so that answers end after a token or a few, as trained models' do.

        A least-squares fit that puts the mark below all others before the first token and above them after it.
        """
        head, hidden, targets = self._whole.lm_head.weight, [], []
        head[self._whole.config.image_token_id] = 0.0  # never written
        for request in list(load)[:: max(1, len(load) // 12)]:
            assert request.image_id is not None
            table = torch.tensor([self._ids(request)], device=self._device)
            for step in range(3):
                state = self._whole.model(
                    input_ids=table, pixel_values=self._pixels_of(request.image_id)[None]
                ).last_hidden_state[0, -1]
                logits = head @ state
                top = logits.topk(2)
                hidden.append(state.float())
                targets.append(float(top.values[0]) * (-1.0 if step == 0 else 1.3))
                token = top.indices[0] if int(top.indices[0]) != self._end else top.indices[1]
                table = torch.cat([table, token.view(1, 1)], dim=1)
        states, wanted = torch.stack(hidden), torch.tensor(targets, device=self._device)
        gram = states @ states.T
        gram += 0.05 * gram.diagonal().mean() * torch.eye(len(gram), device=self._device)
        head[self._end] = (states.T @ torch.linalg.solve(gram, wanted)).to(head.dtype)
