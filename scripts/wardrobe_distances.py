"""Measures FD-wardrobe where the answer is known: real against real, and real against pictures made worse step by step.

    python scripts/wardrobe_distances.py [--weights FILE] [--num-images 2000]

Prints a Markdown table. The reference are pictures of the embedded training photographs, everything else is made of
the embedded test photographs; all are drawn anew from fixed seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter

from ovbench._base.paths import asset
from ovbench._base.seeding import numpy_generator
from ovbench.encoders.modeling.frontend import load_tiny_vae
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.frechet import Gaussian, frechet_distance, moments_of
from ovbench.tasks.world.draw import draw_single, embedded_sprites
from ovbench.tasks.world.scene import GARMENTS, make_single

_SEED = 20_260_201  # no recipe trains on it
_BATCH = 100
_Worse = Callable[[np.ndarray], np.ndarray]


def cut_outs(split: str, count: int, *, first: int = 0, without: Sequence[str] = ()) -> np.ndarray:
    """Returns pictures of one garment each, uint8 [count, 32, 32, 3], of the embedded photographs of a split.

    Args:
        split: `train` or `test`.
        count: Pictures.
        first: Index to start from.
        without: Garments that are passed over.
    """
    sprites = embedded_sprites(split)
    pictures: list[np.ndarray] = []
    index = first
    while len(pictures) < count:
        scene = make_single(_SEED, split, index)
        index += 1
        if scene.items[0].garment not in without:
            pictures.append(draw_single(scene, sprites))
    return np.stack(pictures)


def noisy(images_u8: np.ndarray, deviation: float) -> np.ndarray:
    """Returns pictures with Gaussian noise of a standard deviation in grey levels, rounded and clipped to 8 bits."""
    noise = numpy_generator(_SEED, "noise").standard_normal(images_u8.shape)
    return np.clip(np.rint(images_u8 + deviation * noise), 0, 255).astype(np.uint8)


def blurred(images_u8: np.ndarray, radius: float) -> np.ndarray:
    """Returns pictures under PIL's Gaussian blur, whose radius is a standard deviation in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(picture).filter(blur)) for picture in images_u8])


def swapped(images_u8: np.ndarray, share: float) -> np.ndarray:
    """Returns pictures of which the first `share` have red and blue exchanged."""
    count = round(share * len(images_u8))
    return np.concatenate([images_u8[:count, ..., ::-1], images_u8[count:]])


def gaussian_of(extractor: Extractor, images_u8: np.ndarray) -> Gaussian:
    """Returns mean and covariance of the pooled features of pictures [n, 32, 32, 3]."""
    pool = extractor.info.pool
    parts = [
        extractor.extract(images_u8[start : start + _BATCH])[pool].cpu() for start in range(0, len(images_u8), _BATCH)
    ]
    return moments_of(torch.cat(parts).double(), "features")


def distance(one: Gaussian, other: Gaussian) -> float:
    """Returns the Fréchet distance."""
    return frechet_distance(one.mu, one.sigma, other.mu, other.sigma, one.n, other.n).value


@torch.no_grad()
def _through_the_vae(images_u8: np.ndarray) -> np.ndarray:
    vae = load_tiny_vae(asset("encoders/vae-mini.safetensors"))
    made: list[np.ndarray] = []
    for start in range(0, len(images_u8), _BATCH):
        x = torch.from_numpy(images_u8[start : start + _BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(x)).clamp(-1, 1)
        made.append(((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)


CORRUPTIONS: Mapping[str, Mapping[str, _Worse]] = {
    "noise": {f"standard deviation {level:g} of 255": partial(noisy, deviation=level) for level in (4, 8, 16, 32)},
    "blur": {f"standard deviation {level:g} px": partial(blurred, radius=level) for level in (0.5, 0.75, 1.0, 2.0)},
    "red and blue exchanged": {
        f"{share:.0%} of the pictures": partial(swapped, share=share) for share in (0.1, 0.25, 0.5, 1)
    },
}
MISSING = (1, 2, 4)  # of the eight garments, the last ones


def rows(extractor: Extractor, num_images: int) -> Iterator[tuple[str, str, float]]:
    """Yields (what, how much, FD-wardrobe against the reference)."""
    reference = gaussian_of(extractor, cut_outs("train", num_images))
    clean = cut_outs("test", num_images)
    yield "training and test photographs", "", distance(reference, gaussian_of(extractor, clean))
    half = num_images // 2
    halves = [gaussian_of(extractor, part) for part in (clean[:half], clean[half : 2 * half])]
    yield "two disjoint halves of the test pictures", f"{half} each", distance(*halves)
    again = gaussian_of(extractor, cut_outs("train", num_images, first=10 * num_images))
    yield "other pictures of the training photographs", "", distance(reference, again)
    yield "test pictures through `vae/mini`", "", distance(reference, gaussian_of(extractor, _through_the_vae(clean)))
    for what, levels in CORRUPTIONS.items():
        for level, worse in levels.items():
            yield what, level, distance(reference, gaussian_of(extractor, worse(clean)))
    for count in MISSING:
        left = cut_outs("test", num_images, without=GARMENTS[len(GARMENTS) - count :])
        yield "garments missing", f"{count} of {len(GARMENTS)}", distance(reference, gaussian_of(extractor, left))
    uniform = numpy_generator(_SEED, "uniform").integers(0, 256, clean.shape, dtype=np.uint8)
    yield "uniform noise alone", "", distance(reference, gaussian_of(extractor, uniform))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="another file of the recipe `wardrobe`, or: random")
    parser.add_argument("--num-images", type=int, default=2000, help="on each side")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    extractor = load_extractor("wardrobe", weights=arguments.weights)
    info = extractor.info
    trace = float(gaussian_of(extractor, cut_outs("train", arguments.num_images)).sigma.trace())
    lines = [
        f"{info.title}, weights {info.weights_sha256[:12]}, {arguments.num_images} pictures on each side, trace of the "
        f"reference's covariance {trace:.4g}",
        "",
        f"| compared with pictures of the training photographs | amount | {info.title} |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {amount} | {value:.3g} |" for what, amount, value in rows(extractor, arguments.num_images)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
