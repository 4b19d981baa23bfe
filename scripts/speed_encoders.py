"""What an adapter costs: images/s of `Encoder.llm_tokens` against the bare library model, in alternating rounds.

Both sides run the same network on the same pictures: the bare side gets them already normalised and is called as the
library's user calls it, ours gets pictures in [0, 1], checks and normalises them, taps the layer and splits the tokens.
Untrained weights (the time does not depend on them). Prints one JSON object; `ratio` is ours over bare, the median of
the rounds' own ratios.

    python scripts/speed_encoders.py
    python scripts/speed_encoders.py --encoder 'clip/b16?weights=random:0' --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

import ovbench
from ovbench._base.errors import OvbenchError
from ovbench.encoders.modeling.tokens import TokenEncoder

DEFAULT = (
    "timm?model=vit_tiny_patch16_224&weights=random:0",
    "open_clip?model=ViT-B-32&weights=random:0",
    "dinov2/small?weights=random:0",
    "ovis3/mini",
    "efficientnet/lite0",
)


def bare(encoder: TokenEncoder) -> Callable[[Tensor], Any]:
    """Returns the call of the library's own user: normalised pictures in, the library's output out."""
    model = cast(Any, encoder.model)
    library = type(model).__module__.partition(".")[0]
    if library == "timm":
        return lambda x: model.forward_features(x)
    if library == "efficientnet_lite_pytorch":
        return lambda x: model.extract_features(x)
    if library == "transformers":
        if hasattr(model.config, "mask_ratio"):
            num_tokens = encoder.info.grid[0] * encoder.info.grid[1]
            noise = torch.arange(num_tokens, dtype=torch.float32, device=next(model.parameters()).device)
            return lambda x: model(pixel_values=x, noise=noise.expand(len(x), -1), interpolate_pos_encoding=True)
        return lambda x: model(pixel_values=x)
    frontend = encoder.frontend
    if frontend is not None:
        return lambda x: model(frontend.encode(x))
    return model


def synchronise(device: str) -> None:
    """Waits for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(spec: str, *, batch_size: int, rounds: int, device: str, min_s: float) -> dict[str, Any]:
    """Returns images/s of both sides and their ratio of times."""
    encoder = ovbench.load_encoder(spec, device=device)
    if not isinstance(encoder, TokenEncoder):
        raise SystemExit(f"'{spec}' is no TokenEncoder: there is no bare library model to compare with")
    info = encoder.info
    images = torch.rand(batch_size, 3, *info.input.size, generator=torch.Generator().manual_seed(0)).to(device)
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (info.mean, info.std))
    normalised = (images - mean) / std
    library = bare(encoder)
    sides: dict[str, Callable[[], Any]] = {
        "bare": lambda: library(normalised),
        "adapter": lambda: encoder.llm_tokens(images),
    }
    with torch.no_grad():
        for call in sides.values():  # warm-up
            call()
            synchronise(device)
        began = time.perf_counter()
        sides["bare"]()
        synchronise(device)
        repeats = max(1, round(min_s / (time.perf_counter() - began)))
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            for name in order:
                began = time.perf_counter()
                for _ in range(repeats):
                    sides[name]()
                synchronise(device)
                times[name].append((time.perf_counter() - began) / repeats)
    ratios = [ours / theirs for ours, theirs in zip(times["adapter"], times["bare"], strict=True)]
    return {
        "encoder": spec,
        "input_px": info.input.size[0],
        "num_tokens": info.grid[0] * info.grid[1],
        "bare_img_per_s": round(batch_size / statistics.median(times["bare"]), 2),
        "adapter_img_per_s": round(batch_size / statistics.median(times["adapter"]), 2),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(value, 4) for value in ratios],
        "repeats": repeats,
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="spec string; several times for more")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="of each side, alternating")
    parser.add_argument("--min-s", type=float, default=1.0, help="least seconds of one side of a round")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        rows = [
            measure(
                spec,
                batch_size=arguments.batch_size,
                rounds=arguments.rounds,
                device=arguments.device,
                min_s=arguments.min_s,
            )
            for spec in arguments.encoder or DEFAULT
        ]
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    result = {
        "name": "encoders",
        "batch_size": arguments.batch_size,
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine(),
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "ovbench": ovbench.__version__,
        "encoders": rows,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
