"""Tiny random LLaVAs as other programs write them, and what transformers' own class makes of the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from ovbench.harness.understanding.conversation import question_prompt, tokenize
from ovbench.harness.understanding.llava import Llava, splice

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PX, PATCH, DIM, WIDTH = 32, 8, 24, 32
NUM_VISUAL = (PX // PATCH) ** 2
MARKS = ("<unk>", "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>")
_TOWER: Mapping[str, Any] = {
    "hidden_size": DIM, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": PX,
    "patch_size": PATCH,
}  # fmt: skip
CLIP_JSON: Mapping[str, Any] = {
    "crop_size": {"height": PX, "width": PX}, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "image_mean": list(MEAN), "image_processor_type": "CLIPImageProcessor", "image_std": list(STD), "resample": 3,
    "size": {"shortest_edge": PX},
}  # fmt: skip


def tokenizer(chat_template: str | None = None) -> Any:
    """Returns a byte-level tokenizer with the marks of all templates; it puts `<s>` in front, as Llama's do."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [AddedToken(mark, special=True, normalized=False) for mark in MARKS]
    inner.train_from_iterator(
        ["USER: What is it? ASSISTANT: A red boot."] * 9,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    found.chat_template = chat_template
    return found


def llama_config(words: Any, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1,
        "eos_token_id": 2, **changes,
    }  # fmt: skip
    return transformers.LlamaConfig(**fields)


def randomise(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_llama(folder: Path, *, seed: int = 0, words: Any = None, **changes: Any) -> Path:
    """Writes a language model with its tokenizer, in transformers' layout."""
    words = words or tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(llama_config(words, **changes))
    randomise(model, seed).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_tower(folder: Path, *, seed: int = 5) -> Path:
    """Writes a CLIP tower in transformers' layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_TOWER))
    randomise(model, seed).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_JSON), encoding="utf-8")
    return folder


def library_llava(*, seed: int = 0, siglip: bool = False, grown: bool = True, **changes: Any) -> tuple[Any, Any]:
    """Returns transformers' own model with random weights, and its tokenizer, which knows `<image>` and `<pad>`."""
    words = tokenizer()
    words.add_tokens(["<image>", "<pad>"], special_tokens=True)
    words.pad_token = "<pad>"
    vision = (transformers.SiglipVisionConfig if siglip else transformers.CLIPVisionConfig)(**_TOWER)
    rows = -(-len(words) // 64) * 64 if grown else len(words)
    config = transformers.LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=llama_config(words, vocab_size=rows).to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full" if siglip else "default",
        **changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlavaForConditionalGeneration(config)
    return randomise(model, seed), words


def write_library(folder: Path, model: Any, words: Any, *, do_pad: bool = False) -> Path:
    """Writes a folder as transformers does."""
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    processor = {**CLIP_JSON, "do_pad": do_pad, "image_processor_type": "LlavaImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def original_state(model: Any, *, tower: bool = False) -> dict[str, Tensor]:
    """Returns the weights of transformers' model under the keys of the original code."""
    layers = {"linear_1": "0", "linear_2": "2"}
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        inner = key.removeprefix("model.")
        part, _, rest = inner.partition(".")
        if part == "language_model":
            state[f"model.{rest}"] = value
        elif part == "multi_modal_projector":
            layer, _, kind = rest.partition(".")
            state[f"model.mm_projector.{layers[layer]}.{kind}"] = value
        elif part == "vision_tower":
            if tower:
                state[f"model.vision_tower.vision_tower.vision_model.{rest}"] = value
        else:
            state[key] = value
    return state


def write_original(
    folder: Path,
    model: Any,
    words: Any,
    *,
    kind: str = "bin",
    tower: bool = False,
    change: Mapping[str, Tensor | None] | None = None,
    **fields: Any,
) -> Path:
    """Writes a checkpoint as the original code does.

    Args:
        kind: `bin` (two pickled shards with an index), `safetensors`, or `projector` (stage 1).
        tower: Put the vision tower in.
        change: Tensors to replace, or to leave out (None).
        fields: Of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().clone() for key, value in original_state(model, tower=tower).items()}
    for key, value in (change or {}).items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    text = model.config.text_config.to_dict()
    config = {
        **text, "architectures": ["LlavaLlamaForCausalLM"], "image_aspect_ratio": "pad", "mm_hidden_size": DIM,
        "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "model_type": "llava_llama", "max_length": 4096,
        "freeze_mm_mlp_adapter": False, "tune_mm_mlp_adapter": False, "use_mm_proj": True,
        "tokenizer_model_max_length": 200, "tokenizer_padding_side": "right", "torch_dtype": "float32",
        "transformers_version": "4.31.0", **fields,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if kind == "projector":
        torch.save({key: value for key, value in state.items() if "mm_projector" in key}, folder / "mm_projector.bin")
        return folder
    words.save_pretrained(folder)
    if kind == "safetensors":
        save_file(
            {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        return folder
    names = sorted(state)
    halves = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for name, keys in halves.items():
        torch.save({key: state[key] for key in keys}, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, keys in halves.items() for key in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def pictures(count: int = 2) -> Tensor:
    """Returns random pictures in [0, 1], `[B, 3, PX, PX]`."""
    return torch.rand(count, 3, PX, PX, generator=torch.Generator().manual_seed(7))


QUESTIONS = ("What is it?", "Is there a boot?")


@torch.no_grad()
def library_logits(
    model: Any, words: Any, images_01: Tensor, prompts: list[str], *, num_visual: int = NUM_VISUAL
) -> list[Tensor]:
    """Returns transformers' own logits `[T, V]` of each prompt with its picture, one at a time."""
    found: list[Tensor] = []
    for image, prompt in zip(images_01, prompts, strict=True):
        ids = words(prompt.replace("<image>", "<image>" * num_visual), return_tensors="pt")["input_ids"]
        pixels = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        found.append(model(input_ids=ids, pixel_values=pixels[None].to(model.dtype)).logits[0].float())
    return found


def prompts_of(model: Llava) -> list[str]:
    return [question_prompt(model.form, question, has_image=True) for question in QUESTIONS]


@torch.no_grad()
def own_logits(model: Llava, visual: Tensor) -> list[Tensor]:
    """Returns our logits `[T, V]` of both questions, in one padded batch."""
    samples = [tokenize(model.tokenizer, prompt, has_image=True) for prompt in prompts_of(model)]
    batch = splice(samples, num_visual=visual.shape[1], pad=model.pad, max_length=model.max_length)
    logits = model(batch, visual).float()
    return [row[:length] for row, length in zip(logits, batch.lengths.tolist(), strict=True)]
