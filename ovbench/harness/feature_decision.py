"""Whether it pays to store the tokens of images, or to compute them each time that they are needed."""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.harness.feature_cache import Throughput

LOSS_ALLOWED = 0.1  # of the time: what a cache may cost this run for the sake of later ones, which read it too


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether features are cached, and why."""

    cache: bool
    reason: str
    fits: bool = True  # False: the bound of the cache was the reason, which the user can move


def decide(
    *,
    image_bytes: int,
    num_images: int,
    num_reads: float,
    encode_s: float,
    speed: Throughput,
    room_bytes: int,
    padding: float = 1.0,
) -> Decision:
    """Says whether it pays to store the tokens of images, or to compute them each time they are needed.

    Args:
        image_bytes: Tokens of one image, as stored.
        num_images: Images that are not stored yet.
        num_reads: How many times each will be needed, on average.
        encode_s: Seconds to load, prepare and encode one image.
        speed: Of the cache's disk.
        room_bytes: What the cache could take.
        padding: Images in a forward pass per image that is asked for, without a cache: a pass is always a whole batch.
    """
    needed = image_bytes * num_images
    if needed > room_bytes:
        reason = f"{_size(needed)} of features do not fit into the {_size(room_bytes)} that the feature cache may take"
        return Decision(cache=False, reason=reason, fits=False)
    fly_s = num_images * num_reads * encode_s * padding
    read_s = image_bytes / speed.read_bytes_s
    cached_s = num_images * (encode_s + image_bytes / speed.write_bytes_s + num_reads * read_s)
    told = f"{cached_s:.3g} s with a cache, {fly_s:.3g} s without, each image being read {num_reads:.3g} times"
    if cached_s <= (1 + LOSS_ALLOWED) * fly_s:
        return Decision(cache=True, reason=told)
    return Decision(cache=False, reason=f"a cache does not pay: {told}")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.3g} MB"
