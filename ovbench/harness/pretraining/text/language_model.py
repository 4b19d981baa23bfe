"""Trains the miniature language model on text about the garment world and writes it as a transformers folder."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir, write_json
from ovbench._base.lazy import require
from ovbench._base.seeding import derive
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.pretraining.text.text_data import (
    TextScene,
    TextWeights,
    draw_batch,
    text_pool,
)
from ovbench.harness.pretraining.text.tokenizer import BOS, EOS, PAD, vocabulary, write_tokenizer
from ovbench.harness.training import LoopConfig, Progress, no_progress, train_loop
from ovbench.tasks.world.captions import words

log = logging.getLogger(__name__)

DEFAULT_STEPS = 2500
# Questions are drawn by kind so that those which take longest to learn are seen most often.
KIND_WEIGHTS = {
    "pope": 0.5,
    "counting": 0.7,
    "scene": 0.7,
    "identity": 1.0,
    "location": 1.0,
    "attribute": 1.5,
    "relation": 1.5,
    "reasoning": 1.5,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelRecipe:
    """Architecture, text and optimisation of the miniature language model (a Llama of 0.8M parameters)."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 352
    max_length: int = 512  # positions
    steps: int = DEFAULT_STEPS  # optimiser updates
    batch_size: int = 64  # sequences
    num_turns: int = 8  # questions per sequence
    lr: float = 1.5e-3  # peak, cosine to 0
    warmup_steps: int = 100
    weight_decay: float = 0.0
    first_scene: int = 1_000_000  # index of the first scene of the text; far from the scenes of visual tuning
    num_scenes: int = 20_000
    num_test_scenes: int = 200  # follow the training scenes
    weights: TextWeights = field(default_factory=TextWeights)
    kind_weights: Mapping[str, float] = field(default_factory=lambda: dict(KIND_WEIGHTS))
    bfloat16: bool = True  # matrix products under autocast; weights, norms and loss stay float32
    checkpoint_every: int = 250  # steps

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}", where="language model")
        if min(self.num_turns, self.num_scenes, self.num_test_scenes, self.batch_size) < 1:
            raise ConfigError("turns, scenes and batch size must be positive", where="language model")


def build_model(recipe: LanguageModelRecipe, table: Mapping[str, int], seed: int) -> Any:
    """Returns a fresh `LlamaForCausalLM` with eager attention; the initialisation depends on the seed alone."""
    transformers = require("transformers", purpose="the mini language model")

    config = transformers.LlamaConfig(
        vocab_size=len(table),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_length,
        tie_word_embeddings=True,
        bos_token_id=table[BOS],
        eos_token_id=table[EOS],
        pad_token_id=table[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "lm/init"))
        # Trap: on CPU, scaled_dot_product_attention in bfloat16 is five times slower than plain matrix products.
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")


def weighted_loss(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the weighted mean negative log-likelihood of each next token.

    Args:
        logits: `[B, T, V]`.
        ids: `[B, T]`.
        weights: `[B, T]`, of predicting the token at that position.
    """
    flat = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    scale = weights[:, 1:].flatten()
    return (flat * scale).sum() / scale.sum()


def text_accuracy(
    model: torch.nn.Module, scenes: Sequence[TextScene], table: Mapping[str, int], *, batch_size: int = 256
) -> dict[str, float]:
    """Returns kind → share of questions whose first greedy token is the answer's; each is asked alone."""
    asked = [
        (turn.kind, [table[BOS], *scene.caption, *turn.question], turn.answer[0])
        for scene in scenes
        for turn in scene.turns
    ]
    asked.sort(key=lambda row: len(row[1]))
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(asked), batch_size):
            rows = asked[start : start + batch_size]
            length = max(len(ids) for _, ids, _ in rows)
            ids = torch.tensor([ids + [table[PAD]] * (length - len(ids)) for _, ids, _ in rows])
            last = torch.tensor([len(ids) - 1 for _, ids, _ in rows])
            guesses = model(input_ids=ids).logits[torch.arange(len(rows)), last].argmax(-1).tolist()
            for (kind, _, answer), guess in zip(rows, guesses, strict=True):
                total[kind] += 1
                right[kind] += guess == answer
    model.train()
    return {kind: right[kind] / total[kind] for kind in sorted(total)}


def train_language_model(
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    recipe: LanguageModelRecipe | None = None,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Trains the language model and fills a folder that `AutoModelForCausalLM` and `AutoTokenizer` load offline.

    Args:
        out: Gets config.json, tokenizer files, training.json and, last, model.safetensors (bfloat16); the checkpoint
            and the log are kept there too, and the same call again continues.
        steps: Overrides the recipe's number of steps.
        seed: World, initialisation and data order.
        recipe: Everything else.
        progress: Told after each step.

    Returns:
        `accuracy_<kind>`: share of held-out questions whose greedy answer is right (of the stored weights), and
        `loss_first` and `loss_last`.
    """
    recipe = recipe or LanguageModelRecipe()
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    make_dir(out)
    table = vocabulary(words())
    pool = text_pool(table, seed=seed, first=recipe.first_scene, count=recipe.num_scenes)
    held_out = text_pool(table, seed=seed, first=recipe.first_scene + recipe.num_scenes, count=recipe.num_test_scenes)
    model = build_model(recipe, table, seed)
    model.train()

    def losses(step: int) -> dict[str, torch.Tensor]:
        batch = draw_batch(
            pool,
            table,
            seed=seed,
            step=step,
            batch_size=recipe.batch_size,
            num_turns=recipe.num_turns,
            kind_weights=recipe.kind_weights,
            weights=recipe.weights,
        )
        with torch.autocast("cpu", dtype=torch.bfloat16) if recipe.bfloat16 else contextlib.nullcontext():
            logits = model(input_ids=batch.ids, use_cache=False).logits
        return {"loss": weighted_loss(logits, batch.ids, batch.weights)}

    def report(done: int) -> None:
        if done % recipe.checkpoint_every == 0:
            scores = text_accuracy(model, held_out[:40], table)
            log.info("step %d: %s", done, ", ".join(f"{kind} {value:.2f}" for kind, value in scores.items()))

    rows = train_loop(
        modules={"lm": model},
        losses=losses,
        config=LoopConfig(
            steps=recipe.steps,
            lr=recipe.lr,
            warmup_steps=min(recipe.warmup_steps, recipe.steps // 4),
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
            checkpoint_every=recipe.checkpoint_every,
            log_every=min(25, recipe.checkpoint_every),
        ),
        folder=out,
        name="lm",
        recipe={"recipe": asdict(recipe), "seed": seed},
        progress=progress,
        after_step=report,
    )
    model.to(torch.bfloat16)
    stored = build_model(recipe, table, seed)
    stored.load_state_dict(model.state_dict())
    accuracy = text_accuracy(stored, held_out, table)
    write_tokenizer(out, words(), max_length=recipe.max_length)
    model.config.dtype = torch.bfloat16
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(out)
    write_json(out / "training.json", {"recipe": asdict(recipe), "seed": seed, "text_accuracy": accuracy})
    tensors = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}  # tied
    save_tensors(out / "model.safetensors", tensors, {"format": "pt"})
    figures = {f"accuracy_{kind}": value for kind, value in accuracy.items()}
    return figures | {"loss_first": rows[0]["loss"], "loss_last": rows[-1]["loss"]}
