"""A small tree of LLaVA-like data, tokens for its images and trainings on it, shared by tests and their programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovbench._base.seeding import torch_generator
from ovbench.harness.checkpoint import load_tensors
from ovbench.harness.parallel import Processes
from ovbench.harness.training import Progress, no_progress
from ovbench.harness.understanding.config import LlavaConfig, Sharding, StageConfig
from ovbench.harness.understanding.llava_json import LlavaJsonData, StageSource
from ovbench.harness.understanding.train import train_llava
from ovbench.tasks.world.captions import scene_caption
from ovbench.tasks.world.scene import make_scene

DIM = 8
NUM_STAGE1, NUM_STAGE2 = 20, 30


def turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def caption_row(number: int) -> dict[str, Any]:
    caption = scene_caption(make_scene(0, "train", number))
    question = "<image>\nwhat is there ?" if number % 2 else "what is there ?\n<image>"
    return {
        "id": f"c{number}",
        "image": f"a/{number:04d}.png",
        "conversations": [turn("human", question), turn("gpt", caption)],
    }


def dialogue_row(number: int) -> dict[str, Any]:
    """Every third row has no image; rows have one to three answers of other lengths."""
    words = scene_caption(make_scene(1, "train", number)).split()
    turns: list[dict[str, str]] = []
    for place in range(1 + number % 3):
        turns += [turn("human", "what is there ?"), turn("gpt", " ".join(words[: 1 + (number + 2 * place) % 7]))]
    row: dict[str, Any] = {"id": f"d{number}", "conversations": turns}
    if number % 3:
        row["image"] = f"b/{number:04d}.png"
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
    return row


def write_tree(folder: Path) -> LlavaJsonData:
    """Writes both lists and their images."""
    for name, rows in (
        ("one.json", [caption_row(number) for number in range(NUM_STAGE1)]),
        ("two.json", [dialogue_row(number) for number in range(NUM_STAGE2)]),
    ):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        (folder / "b").mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
        for row in rows:
            if "image" in row:
                colour = len(row["conversations"][-1]["value"]) % 256
                Image.fromarray(np.full((5, 7, 3), colour, np.uint8)).save(folder / row["image"])
    return open_tree(folder)


def open_tree(folder: Path) -> LlavaJsonData:
    return LlavaJsonData(
        StageSource(json=folder / "one.json", images=folder), StageSource(json=folder / "two.json", images=folder)
    )


def tokens(image_ids: Sequence[str]) -> torch.Tensor:
    """Four random tokens per image, always the same ones."""
    return torch.stack([torch.randn(4, DIM, generator=torch_generator(0, image_id)) for image_id in image_ids])


def config(language_model: str, *, steps: int = 6, **changes: Any) -> LlavaConfig:
    """Two stages of batches of 8 in micro-batches of 4; `stage1` and `stage2` change a stage, `both` the two."""
    both = {"steps": steps, "batch_size": 8, "micro_batch": 4, "checkpoint_every": 2, **changes.pop("both", {})}
    one = {"lr": 2e-3, "template": "plain", **both, **changes.pop("stage1", {})}
    two = {
        "lr": 2e-3,
        "template": "v1_short",
        "group_by_modality_length": True,
        "warmup_from_zero": True,
        "weight_decay": 0.1,
        **both,
        **changes.pop("stage2", {}),
    }
    return LlavaConfig(
        language_model=language_model,
        stage1=StageConfig(**one),
        stage2=StageConfig(**two),
        **{"precision": "float32", **changes},
    )


def train(
    folder: Path,
    data: LlavaJsonData,
    recipe: LlavaConfig,
    *,
    stage: int,
    init: Path | None = None,
    processes: Processes | None = None,
    sharding: Sharding = "none",
    pass_size: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    return train_llava(
        tokens,
        dim=DIM,
        data=data,
        config=recipe,
        seed=0,
        folder=folder,
        stage=stage,
        init=init,
        processes=processes,
        sharding=sharding,
        pass_size=pass_size,
        progress=progress,
    )


def largest_difference(one: Path, other: Path) -> float:
    """Returns the largest difference between two weights files of the same tensors."""
    ours, theirs = load_tensors(one), load_tensors(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
