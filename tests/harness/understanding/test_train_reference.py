"""Both stages against a loop that is as plain as it can be: one sample at a time, whole logits, no shared code but the
tokenizer's, the order of the samples and the start of the projector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from ovbench._base.files import read_jsonl
from ovbench._base.seeding import derive
from ovbench.harness.checkpoint import load_tensors
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.conversation import template
from ovbench.harness.understanding.data import Order, tokenize_conversation
from ovbench.harness.understanding.grouping import GroupedOrder, row_lengths
from ovbench.harness.understanding.llava_json import LlavaJsonData
from tests.harness.understanding.llava_training import DIM, config, tokens, train, write_tree

STEPS = 50


def plain_loop(data: LlavaJsonData, recipe: LlavaConfig, stage: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    settings = recipe.stage(stage)
    tokenizer = AutoTokenizer.from_pretrained(recipe.language_model)
    model: Any = AutoModelForCausalLM.from_pretrained(
        recipe.language_model, dtype=torch.float32, attn_implementation="eager"
    )
    width = model.config.hidden_size
    torch.manual_seed(derive(0, "llava/projector"))
    projector = torch.nn.Sequential(torch.nn.Linear(DIM, width), torch.nn.GELU(), torch.nn.Linear(width, width))
    form = template(settings.template, stop=tokenizer.eos_token)
    order: Callable[[int, int], list[tuple[int, int]]] = Order(0, stage, data.size(stage))
    if settings.group_by_modality_length:
        words, pictured = row_lengths(data, stage, range(data.size(stage)))
        order = GroupedOrder(0, stage, words, pictured, batch_size=settings.batch_size, num_parts=2)
    moved = [*projector.named_parameters(), *(model.named_parameters() if stage == 2 else ())]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for _, p in moved if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for _, p in moved if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(0.9, 0.999),
        eps=1e-8,
        foreach=False,
    )
    warmup = math.ceil(STEPS * 0.03)
    losses: list[float] = []
    for step in range(STEPS):
        rate = (
            (step if settings.warmup_from_zero else step + 1) / warmup
            if step < warmup
            else (0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))))
        )
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * rate
        chosen = order(step, settings.batch_size)
        per_token: list[list[torch.Tensor]] = [[] for _ in range(settings.batch_size // 4)]
        for place, (row, _) in enumerate(chosen):
            conversation = data.conversation(stage, row, 0)
            sample = tokenize_conversation(conversation, tokenizer, form, strict_reference=True)
            rows = model.get_input_embeddings()(torch.tensor(sample.ids))
            labels = list(sample.labels)
            if conversation.image_id is not None:
                at = sample.image_at
                assert at is not None
                rows = torch.cat([rows[:at], projector(tokens([conversation.image_id]))[0], rows[at:]])
                labels = labels[:at] + [-100] * 4 + labels[at:]
            else:  # llava_arch.py: no rows of an empty image, so that the projector has a gradient of zero
                rows = torch.cat([rows, projector(torch.zeros(4, DIM))[0:0]])
            logits = model(inputs_embeds=rows[None]).logits[0]
            found = cross_entropy(logits[:-1], torch.tensor(labels[1:]), ignore_index=-100, reduction="none")
            per_token[place // 4].append(found[torch.tensor(labels[1:]) != -100])
        if settings.loss_normalisation == "global_tokens":
            loss = torch.cat([item for group in per_token for item in group]).mean()
        else:
            loss = torch.stack([torch.cat(group).mean() for group in per_token]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in moved], 1.0, foreach=False)
        optimiser.step()
        losses.append(loss.item())
    state = {f"model.mm_projector.{key}": value for key, value in projector.state_dict().items()}
    return losses, state | (dict(model.state_dict()) if stage == 2 else {})


@pytest.mark.parametrize(("stage", "normalisation"), [(1, "micro_batch"), (2, "micro_batch"), (2, "global_tokens")])
def test_fifty_steps_have_the_losses_of_a_plain_loop(
    toy_language_model: str, tmp_path: Path, stage: int, normalisation: str
) -> None:
    data = write_tree(tmp_path / "data")
    recipe = config(toy_language_model, steps=STEPS, both={"loss_normalisation": normalisation, "checkpoint_every": 50})
    losses: list[float] = []
    path = train(
        tmp_path / "run",
        data,
        recipe,
        stage=stage,
        progress=lambda done, total, **fields: losses.append(fields["loss"]),
    )
    wanted, weights = plain_loop(data, recipe, stage)
    assert len(losses) == STEPS
    assert losses == pytest.approx(wanted, abs=1e-5)
    # Something was learnt, so the curves are no flat lines; a projector alone cannot do much with a random model.
    assert wanted[-1] < (0.99 if stage == 1 else 0.8) * wanted[0]
    for key, value in load_tensors(path).items():
        assert float((value - weights[key]).abs().max()) < 1e-4, key
    logged = read_jsonl(tmp_path / "run" / f"stage{stage}.log.jsonl")
    assert [row["step"] for row in logged] == [10, 20, 30, 40, 50]
    assert all(row["tokens_per_s"] > 0 and row["tokens"] > 0 for row in logged)


def test_the_two_normalisations_are_two_losses(toy_language_model: str, tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    found: dict[str, float] = {}
    for normalisation in ("micro_batch", "global_tokens"):
        recipe = config(toy_language_model, steps=1, both={"loss_normalisation": normalisation})
        recipe = replace(recipe, stage2=replace(recipe.stage2, group_by_modality_length=False))
        train(
            tmp_path / normalisation,
            data,
            recipe,
            stage=2,
            progress=lambda done, total, name=normalisation, **fields: found.update({name: fields["loss"]}),
        )
    assert abs(found["micro_batch"] - found["global_tokens"]) > 1e-4
