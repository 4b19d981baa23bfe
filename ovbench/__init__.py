"""ovbench: how good is a frozen vision encoder, for understanding and for generation, in one honest table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ovbench._base.errors import OvbenchError
    from ovbench.api import compare, fid, gen_fid, leaderboard, rescore, run
    from ovbench.encoders.base import Encoder, Family, LoadRequest, Normalisation, PreprocessSpec, Tap, Variant
    from ovbench.encoders.modeling.tokens import Network, TokenEncoder
    from ovbench.encoders.plugins import register_encoder
    from ovbench.encoders.registry import load_encoder

__all__ = [
    "Encoder",
    "Family",
    "LoadRequest",
    "Network",
    "Normalisation",
    "OvbenchError",
    "PreprocessSpec",
    "Tap",
    "TokenEncoder",
    "Variant",
    "__version__",
    "compare",
    "fid",
    "gen_fid",
    "leaderboard",
    "load_encoder",
    "register_encoder",
    "rescore",
    "run",
]

_WHERE = {
    "Encoder": "ovbench.encoders.base",
    "Family": "ovbench.encoders.base",
    "LoadRequest": "ovbench.encoders.base",
    "Network": "ovbench.encoders.modeling.tokens",
    "Normalisation": "ovbench.encoders.base",
    "OvbenchError": "ovbench._base.errors",
    "PreprocessSpec": "ovbench.encoders.base",
    "Tap": "ovbench.encoders.base",
    "TokenEncoder": "ovbench.encoders.modeling.tokens",
    "Variant": "ovbench.encoders.base",
    "compare": "ovbench.api",
    "fid": "ovbench.api",
    "gen_fid": "ovbench.api",
    "leaderboard": "ovbench.api",
    "load_encoder": "ovbench.encoders.registry",
    "register_encoder": "ovbench.encoders.plugins",
    "rescore": "ovbench.api",
    "run": "ovbench.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import ovbench` stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'ovbench' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
