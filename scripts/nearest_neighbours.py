"""Do an encoder's features know what they see? k nearest neighbours among the embedded garment photographs.

Each photograph is enlarged to the encoder's input, its tokens are averaged, and a photograph of the test file is named
by the k nearest ones of the training file (cosine). Prints one JSON object: accuracy per encoder, and of raw pixels.

    python scripts/nearest_neighbours.py --encoder efficientnet --encoder 'efficientnet?weights=random:0'
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovbench import load_encoder
from ovbench._base.errors import OvbenchError
from ovbench.tasks.world.draw import embedded_sprites


def photographs(split: str, per_class: int) -> tuple[np.ndarray, torch.Tensor]:
    """Returns uint8 [N, 28, 28] and labels [N] of the first `per_class` photographs of each of the 8 garments."""
    images = embedded_sprites(split).images[:, :per_class]
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    return images.reshape(-1, *images.shape[2:]), labels


@torch.no_grad()
def features(spec: str, images: np.ndarray, batch_size: int) -> torch.Tensor:
    """Returns the mean token of each photograph, float32 [N, C]."""
    encoder = load_encoder(spec)
    chunks = []
    for start in range(0, len(images), batch_size):
        batch = torch.stack([encoder.prepare(Image.fromarray(one)) for one in images[start : start + batch_size]])
        chunks.append(encoder.features(batch).tokens.float().mean(dim=1))
    return torch.cat(chunks)


def accuracy(
    train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, labels: torch.Tensor, k: int
) -> float:
    """Returns the share of test rows whose k nearest training rows (cosine, centred) vote for their label."""
    centre = train.mean(dim=0)
    a, b = (torch.nn.functional.normalize(rows - centre, dim=1) for rows in (train, test))
    nearest = train_labels[(b @ a.T).topk(k, dim=1).indices]  # [N, k]
    votes = torch.nn.functional.one_hot(nearest, int(train_labels.max()) + 1).sum(dim=1)
    return float((votes.argmax(dim=1) == labels).float().mean())


def measure(encoders: list[str], *, per_class: int, num_test: int, k: int, batch_size: int) -> dict[str, Any]:
    """Returns accuracy and seconds per encoder, with pixels as the baseline."""
    (train, train_labels), (test, labels) = photographs("train", per_class), photographs("test", num_test)
    pixels = [torch.from_numpy(part.reshape(len(part), -1).astype(np.float32)) for part in (train, test)]
    found: dict[str, Any] = {"pixels": {"accuracy": accuracy(pixels[0], train_labels, pixels[1], labels, k)}}
    for spec in encoders:
        began = time.monotonic()
        rows = [features(spec, part, batch_size) for part in (train, test)]
        value = accuracy(rows[0], train_labels, rows[1], labels, k)
        found[spec] = {"accuracy": value, "seconds": round(time.monotonic() - began, 1)}
    return {"k": k, "num_train": len(train), "num_test": len(test), "chance": 1 / 8, "encoders": found}


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", required=True, help="spec string; several times for more")
    parser.add_argument("--per-class", type=int, default=100, help="training photographs of each garment")
    parser.add_argument("--num-test", type=int, default=50, help="test photographs of each garment")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    try:
        result = measure(
            arguments.encoder,
            per_class=arguments.per_class,
            num_test=arguments.num_test,
            k=arguments.k,
            batch_size=arguments.batch_size,
        )
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
