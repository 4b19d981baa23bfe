"""ovbench: how good is a frozen vision encoder, for understanding and for generation, in one honest table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ovbench._base.errors import OvbenchError
    from ovbench.api import leaderboard, run
    from ovbench.encoders.registry import load_encoder

__all__ = ["OvbenchError", "__version__", "leaderboard", "load_encoder", "run"]

_WHERE = {
    "OvbenchError": "ovbench._base.errors",
    "leaderboard": "ovbench.api",
    "load_encoder": "ovbench.encoders.registry",
    "run": "ovbench.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import ovbench` stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'ovbench' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
