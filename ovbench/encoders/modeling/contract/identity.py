"""Checks of the fingerprint: equal for equal encoders, different for every other tap and for other weights."""

from __future__ import annotations

from ovbench._base.errors import OvbenchError
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.contract.subject import Failure, Skip, Subject, relative_difference


def check_fingerprint(subject: Subject) -> str:
    """The fingerprint stays the same between calls and differs between taps."""
    encoder = subject.encoder
    taps = {
        "Tap()": Tap(),
        "Tap(layer=0)": Tap(layer=0),
        "Tap(layer=-2)": Tap(layer=-2),
        "Tap(norm='none')": Tap(norm="none"),
        "Tap(norm='layernorm', eps=1e-6)": Tap(norm="layernorm", eps=1e-6),
        "Tap(norm='layernorm', eps=1e-5)": Tap(norm="layernorm", eps=1e-5),
        "Tap(prefix=True)": Tap(prefix=True),
    }
    first = {name: encoder.fingerprint(tap) for name, tap in taps.items()}
    if any(not isinstance(value, str) or not value for value in first.values()):
        raise Failure("the fingerprint is not a text, or is empty")
    encoder.features(subject.images[:1])
    for name, tap in taps.items():
        if encoder.fingerprint(tap) != first[name]:
            raise Failure(f"the fingerprint of {name} is not stable: two calls give two values")
    seen: dict[str, str] = {}
    for name, value in first.items():
        if value in seen and _differ(subject, taps[seen[value]], taps[name]):
            raise Failure(
                f"the fingerprint does not depend on the tap: {seen[value]} and {name} give other features under one "
                "fingerprint, and a cache would mix them up"
            )
        seen.setdefault(value, name)
    return f"{len(taps)} taps, {len(seen)} fingerprints, the same at a second call"


def _differ(subject: Subject, one: Tap, other: Tap) -> bool:
    """Returns whether two taps give different features; a tap that is refused gives none to mix up."""
    x = subject.images[:1]
    try:
        a, b = subject.encoder.features(x, one), subject.encoder.features(x, other)
    except OvbenchError:
        return False
    return (a.prefix is None) != (b.prefix is None) or relative_difference(a.tokens, b.tokens) > 0.0


def check_fingerprint_builds(subject: Subject) -> str:
    """An encoder that is built twice has one fingerprint and gives one output."""
    if subject.rebuild is None:
        raise Skip("one built encoder was given: give a factory or a spec string")
    other = subject.rebuild()
    if other.info.identity != subject.info.identity or other.fingerprint() != subject.encoder.fingerprint():
        raise Failure(
            "the fingerprint is not stable: two builds of the same encoder differ (a time, an address, a path, or "
            "weights that are drawn anew)"
        )
    x = subject.images[:2]
    if (off := relative_difference(other.features(x).tokens, subject.tokens(x))) > subject.tolerance:
        raise Failure(f"two builds have the same fingerprint, and their tokens differ by {off:.2g}")
    return "two builds have the same fingerprint and tokens"


def check_random_weights(subject: Subject) -> str:
    """`weights=random:SEED` builds the same architecture with seeded weights and says so; the fingerprint follows."""
    if subject.with_random_weights is None:
        raise Skip(subject.no_random_weights)
    x, info = subject.images[:2], subject.info
    prints: dict[str, str] = {}
    for name, seed in (("random:0", 0), ("random:0 again", 0), ("random:1", 1)):
        encoder = subject.with_random_weights(seed)
        if encoder.info.random_seed != seed:
            raise Failure(f"weights=random:{seed} says random_seed={encoder.info.random_seed}: results are not marked")
        if (encoder.info.grid, encoder.info.dim, encoder.info.depth) != (info.grid, info.dim, info.depth):
            raise Failure(f"weights=random:{seed} builds another architecture than the encoder itself")
        if not bool(encoder.features(x).tokens.isfinite().all()):
            raise Failure(f"weights=random:{seed} gives NaN or infinite tokens")
        prints[name] = encoder.fingerprint()
    if prints["random:0"] != prints["random:0 again"]:
        raise Failure(
            "weights=random:0 built twice gives two fingerprints: the weights do not come from the seed alone"
        )
    if prints["random:0"] == prints["random:1"]:
        raise Failure("random:0 and random:1 have the same fingerprint: it does not depend on the weights")
    if info.random_seed is None and subject.encoder.fingerprint() in prints.values():
        raise Failure("the encoder has the fingerprint of random weights: it does not depend on the weights")
    return "two seeds, two fingerprints; one seed built twice, one fingerprint"
