"""Visual instruction tuning: stage 1 trains the projector on captions, stage 2 also the language model on answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench.harness.training import LoopConfig, Progress, no_progress, train_loop
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.data import Order, TokenSource, TrainingData, tokenize_conversation
from ovbench.harness.understanding.llava import Llava, build_llava, load_weights, save_llava, splice


def train_llava(
    tokens: TokenSource,
    *,
    dim: int,
    data: TrainingData,
    config: LlavaConfig,
    seed: int,
    folder: Path,
    stage: int,
    init: Path | None = None,
    source: str = "",
    progress: Progress = no_progress,
    device: str = "cpu",
) -> Path:
    """Trains one stage and returns its weights file; the same call again continues where it was killed.

    Args:
        tokens: Image ids → frozen visual tokens, float32 `[B, N, dim]`.
        dim: Width of the visual tokens.
        data: Conversations.
        config: The recipe.
        seed: Projector initialisation and data order.
        folder: Checkpoint, log and result of both stages.
        stage: 1 or 2.
        init: Weights of stage 1, for stage 2; None starts from a fresh projector.
        source: Names what `tokens` returns (the features' fingerprint), so that a checkpoint of others is not used.
        progress: Told after each step.
        device: Torch device.

    Returns:
        `stage<n>.safetensors`: the projector as `model.mm_projector.*`, in stage 2 also the language model's own keys.

    Raises:
        ConfigError: `init` is given for stage 1.
        OvbenchError: The loss became NaN or infinite.
    """
    settings = config.stage(stage)
    if stage == 1 and init is not None:
        raise ConfigError("stage 1 starts from a fresh projector", where="init", fix="leave it out")
    make_dir(folder)
    model = build_llava(config, dim, seed=seed, stage=stage, device=device)
    if init is not None:
        load_weights(init, model)
    model.train()
    model.language_model.requires_grad_(stage == 2)
    recipe = {
        "config": asdict(config),
        "data": data.digest,
        "seed": seed,
        "stage": stage,
        "init": file_sha256(init) if init is not None else None,
        "source": source,
    }
    train_loop(
        modules={"llava": model} if stage == 2 else {"projector": model.projector},
        losses=_losses(model, tokens, data, config, seed=seed, stage=stage, device=device),
        config=LoopConfig(
            steps=settings.steps,
            lr=settings.lr,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            checkpoint_every=settings.checkpoint_every,
            log_every=min(10, settings.checkpoint_every),
        ),
        folder=folder,
        name=f"stage{stage}",
        recipe=recipe,
        progress=progress,
    )
    path = folder / f"stage{stage}.safetensors"
    save_llava(path, model, with_language_model=stage == 2, metadata={"recipe": fingerprint(recipe)})
    return path


def _losses(
    model: Llava,
    tokens: TokenSource,
    data: TrainingData,
    config: LlavaConfig,
    *,
    seed: int,
    stage: int,
    device: str,
) -> Callable[[int], dict[str, torch.Tensor]]:
    settings = config.stage(stage)
    order = Order(seed, stage, data.size(stage))

    def losses(step: int) -> dict[str, torch.Tensor]:
        chosen = order(step, settings.batch_size)
        conversations = [data.conversation(stage, index, visit) for index, visit in chosen]
        samples = [
            tokenize_conversation(item, model.tokenizer, model.form, strict_reference=config.strict_reference)
            for item in conversations
        ]
        image_ids = [item.image_id for item in conversations if item.image_id is not None]
        visual = tokens(image_ids) if image_ids else None
        num_visual = visual.shape[1] if visual is not None else 0
        batch = splice(samples, num_visual=num_visual, pad=model.pad, max_length=config.max_length)
        low = config.precision == "bfloat16"
        with torch.autocast(torch.device(device).type, torch.bfloat16) if low else contextlib.nullcontext():
            return {"loss": model.loss(batch, visual)}

    return losses
