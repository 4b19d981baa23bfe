"""Linear probes on frozen tokens: can the garment and its colour be read from the cell where it lies?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ovbench.harness.pretraining.data import to_pm1
from ovbench.harness.pretraining.objective import quadrant_rows
from ovbench.tasks.world.draw import Sprites, draw_scenes
from ovbench.tasks.world.scene import COLOURS, GARMENTS, make_scene

_PROBE_SEED = 20_260_101  # fixed: figures of different encoders are comparable


def ridge_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, *, ridge: float = 1e-2) -> float:
    """Returns the test accuracy of ridge regression onto one-hot labels.

    Args:
        train_x: Features [n, C].
        train_y: Labels int64 [n].
        test_x: Features [m, C].
        test_y: Labels int64 [m].
        ridge: Penalty, relative to the mean variance of the standardised features.
    """
    mean, std = train_x.double().mean(dim=0), train_x.double().std(dim=0) + 1e-6
    train, test = (torch.nn.functional.pad((x.double() - mean) / std, (0, 1), value=1.0) for x in (train_x, test_x))
    target = torch.nn.functional.one_hot(train_y).double()
    gram = train.T @ train + ridge * len(train) * torch.eye(train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, train.T @ target)
    return float(((test @ weights).argmax(dim=1) == test_y).double().mean())


@torch.no_grad()
def probe(
    tokens_of: Callable[[Tensor], Tensor], train_sprites: Sprites, test_sprites: Sprites, *, num_scenes: int = 2000
) -> dict[str, float]:
    """Returns `class` and `colour` accuracy on whole scenes of test photographs.

    Args:
        tokens_of: Images float32 [B, 3, 64, 64] in [-1, 1] → tokens [B, 64, C].
        train_sprites: Photographs that the probe is fitted on.
        test_sprites: Photographs that it is scored on.
        num_scenes: Training scenes; half as many are scored.
    """
    parts = {}
    for split, sprites, count in (("train", train_sprites, num_scenes), ("test", test_sprites, num_scenes // 2)):
        scenes = [make_scene(_PROBE_SEED, split, index) for index in range(count)]
        features: list[Tensor] = []
        labels: list[tuple[int, int]] = []
        for start in range(0, count, 200):
            chunk = scenes[start : start + 200]
            tokens = tokens_of(to_pm1(draw_scenes(chunk, sprites))).float()
            rows = quadrant_rows(torch.arange(4), 8)
            cells = tokens[:, rows].mean(dim=2)  # [B, 4, C]
            for number, scene in enumerate(chunk):
                for item in scene.items:
                    features.append(cells[number, item.cell])
                    labels.append((GARMENTS.index(item.garment), COLOURS.index(item.colour)))
        parts[split] = torch.stack(features), torch.tensor(labels)
    (train_x, train_y), (test_x, test_y) = parts["train"], parts["test"]
    return {
        name: ridge_accuracy(train_x, train_y[:, column], test_x, test_y[:, column])
        for column, name in enumerate(("class", "colour"))
    }
