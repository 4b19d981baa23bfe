"""The table of all checks, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Callable

from ovbench.encoders.modeling.contract import behaviour, identity, locality, shapes
from ovbench.encoders.modeling.contract.subject import Subject

CHECKS: dict[str, Callable[[Subject], str]] = {
    "info": shapes.check_info,
    "prepare": shapes.check_prepare,
    "features": shapes.check_features,
    "taps": shapes.check_taps,
    "prefix": shapes.check_prefix,
    "sequence": shapes.check_sequence,
    "llm_tokens": shapes.check_llm_tokens,
    "latents": shapes.check_latents,
    "resize": shapes.check_resize,
    "decode": shapes.check_decode,
    "guard": behaviour.check_guard,
    "normalisation": behaviour.check_normalisation,
    "determinism": behaviour.check_determinism,
    "batch": behaviour.check_batch,
    "autograd": behaviour.check_autograd,
    "frozen": behaviour.check_frozen,
    "train": behaviour.check_train,
    "locality": locality.check_locality,
    "locality-llm": locality.check_locality_llm,
    "locality-latents": locality.check_locality_latents,
    "fingerprint": identity.check_fingerprint,
    "fingerprint-builds": identity.check_fingerprint_builds,
    "random-weights": identity.check_random_weights,
    "state": behaviour.check_state,  # last: it looks back on all the others
}
