"""Import a heavy or optional package at the moment it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ovbench._base.errors import DependencyError
from ovbench._base.torchvision_shim import allow_torchvision

_IMPORT_TORCHVISION = {
    "torchvision", "transformers", "diffusers", "timm", "open_clip", "lmms_eval", "torchmetrics", "torch_fidelity",
}  # fmt: skip


def require(module: str, *, extra: str = "", purpose: str = "") -> ModuleType:
    """Returns the imported module, or raises an error that names the line to run.

    Args:
        module: Import path, e.g. `matplotlib.pyplot`.
        extra: The extra of ovbench that installs it; empty for core dependencies.
        purpose: What needs it, for the message.

    Raises:
        DependencyError: The package is not installed. An import error inside an installed package is passed on.
    """
    if module.partition(".")[0] in _IMPORT_TORCHVISION:
        allow_torchvision()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name != root:
            raise
        target = f"ovbench[{extra}]" if extra else "ovbench"
        raise DependencyError(
            f"the package '{root}' is not installed",
            where=purpose,
            fix=f"run: python -m pip install '{target}'",
        ) from error


def installed(module: str) -> bool:
    """Returns whether a package is installed, without importing it."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None
