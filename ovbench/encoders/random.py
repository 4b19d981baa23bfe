"""The control that every encoder must beat: the same trunk with seeded, untrained weights."""

from __future__ import annotations

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Encoder, Family, LoadRequest, Tap, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_trunk

    seed = request.options.get("seed", "0")
    if not seed.isdecimal():
        raise ConfigError(f"the seed must be a whole number from 0, got '{seed}'", where="--encoder random?seed=…")
    if "seed" in request.options and request.random_seed is not None:
        raise ConfigError("two seeds are given", where="--encoder random", fix="leave out seed= or weights=random:")
    if request.source:
        raise ConfigError(
            "the encoder 'random' takes no weights", where="--encoder", fix="leave out the part after ':'"
        )
    return load_trunk(request)


FAMILIES = (
    Family(
        key="random",
        title="untrained trunk",
        load=_load,
        options={"seed": "seed of the weights, 0 by default"},
        variants=(
            Variant(
                name="mini",
                title="miniature trunk on pixels, never trained",
                protocol="mini",
                origin="untrained",
                licence="Apache-2.0",
                training_data="none",
                objective="none",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                depth=4,
                num_prefix=1,
                num_params=842_752,
                latent_tap=Tap(norm="layernorm", eps=1e-6),
                citation="none: a control",
                control=True,
            ),
        ),
    ),
)
