"""Tiny random LLaVAs of several architectures, what they see, and what `generate` says at batch size 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ovbench._base.lazy import require
from ovbench._base.seeding import torch_generator
from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.conversation import template
from ovbench.harness.understanding.llava import Llava, splice
from ovbench.harness.understanding.wording import prompt_of

transformers = require("transformers", purpose="tests")
DIM, NUM_VISUAL = 8, 6
NOUNS = ("boot", "bag", "coat", "dress", "shirt", "sandal", "sneaker", "pullover")
QUESTIONS = (
    *(f"Is there a {noun} in the image?" for noun in NOUNS),
    *(f"Where is the {noun} relative to the {other}?" for noun in NOUNS for other in NOUNS if noun != other),
    *(f"Which scene is this? the {noun} is red" for noun in NOUNS),
)

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def language_model(kind: str, vocab: int, eos: int, *, attention: str = "eager") -> Any:
    """Returns a random language model."""
    common = {**_SHAPE, "vocab_size": vocab, "eos_token_id": eos, "bos_token_id": 1, "pad_token_id": 0}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**common, num_key_value_heads=4),
        "grouped": lambda: transformers.LlamaConfig(**common, num_key_value_heads=2),
        "qwen2": lambda: transformers.Qwen2Config(**common, num_key_value_heads=2),
        "window": lambda: transformers.MistralConfig(**common, num_key_value_heads=2, sliding_window=9),
        "mamba": lambda: transformers.MambaConfig(
            hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=vocab, eos_token_id=eos
        ),
    }
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(configs[kind](), attn_implementation=attention)


def tiny_llava(folder: str, kind: str = "llama", *, attention: str = "eager", end: float = 1.4) -> Llava:
    """Returns a random LLaVA whose answers differ between images and questions and end at very different lengths."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = language_model(kind, len(tokenizer), tokenizer.eos_token_id, attention=attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "lm_head" not in name:
                parameter.mul_(12)
        table = model.get_input_embeddings().weight
        table.copy_(0.3 * torch.randn(table.shape, generator=generator))
        head = torch.randn(model.get_output_embeddings().weight.shape, generator=generator)
        head[tokenizer.eos_token_id] *= end
        model.get_output_embeddings().weight = nn.Parameter(head)
    torch.manual_seed(2)
    projector = nn.Sequential(nn.Linear(DIM, 32), nn.GELU(), nn.Linear(32, 32))
    form = template("v1_short", stop=tokenizer.eos_token)
    return Llava(model, tokenizer, projector, form, max_length=256).eval()


def tokens(image_ids: Sequence[str]) -> torch.Tensor:
    """Returns made-up visual tokens."""
    return torch.stack(
        [3 * torch.randn(NUM_VISUAL, DIM, generator=torch_generator(0, image_id)) for image_id in image_ids]
    )


def many_requests(count: int, *, max_new_tokens: int = 64) -> list[Request]:
    """Returns distinct questions: images with 1 to 12 of them, and every thirteenth without an image."""
    found: list[Request] = []
    number = 0
    while len(found) < count:
        for place in range(number % 12 + 1):
            image_id = None if number % 13 == 12 else f"image-{number}"
            found.append(
                Request(
                    image_id=image_id,
                    question=f"{QUESTIONS[(7 * number + place) % len(QUESTIONS)]}{' red' * (number // 13 % 5)}",
                    # Few of the longest, because `generate` takes milliseconds for each of their tokens.
                    max_new_tokens=max_new_tokens if len(found) % 8 == 0 else min(max_new_tokens, 10),
                )
            )
        number += 1
    return found[:count]


@torch.inference_mode()
def generated(model: Llava, request: Request) -> tuple[int, ...]:
    """Returns what `generate` writes to one question alone, without the end mark."""
    _, prompt = prompt_of(model, request.question, has_image=request.image_id is not None)
    visual = None if request.image_id is None else tokens([request.image_id])
    batch = splice([prompt], num_visual=NUM_VISUAL, pad=model.pad, max_length=model.max_length)
    embeddings = model.embed(batch, visual)
    ids = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
    )[0].tolist()
    end = model.tokenizer.eos_token_id
    return tuple(ids[: ids.index(end)] if end in ids else ids)
