"""Lets torchvision be imported beside a torch build that its compiled operators were not made for.

A torchvision wheel built for CUDA beside a CPU torch (or the reverse) cannot load its `_C` library. Its Python code
then fails at import, because it registers shape functions for two operators that do not exist. Nothing of ovbench
calls those operators, so declaring them is enough. A call of one still fails, as it must: there is no code behind it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: Any = None  # Trap: torch forgets the operators when the Library object is collected.


def _compiled_library() -> Path | None:
    """Returns torchvision's compiled operators; None where torchvision has none or is not installed."""
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations or []) if spec else []
    names = [f"_C{suffix}" for suffix in (*importlib.machinery.EXTENSION_SUFFIXES, ".pyd", ".dylib")]
    return next((path for folder in folders for name in names if (path := Path(folder) / name).is_file()), None)


def allow_torchvision() -> bool:
    """Declares `torchvision::nms` and `torchvision::qnms` where torchvision's own operators cannot load.

    Call it before the first import of torchvision or of a package that imports it. Calling it again changes nothing.

    Returns:
        True when the operators are declared by ovbench, now or in an earlier call; False when there was no need:
        torchvision is absent, is already imported, or loads its own operators.
    """
    global _library
    if _library is not None:
        return True
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    import torch

    compiled = _compiled_library()
    reason = "it has no compiled operators"
    if compiled is not None:
        try:
            torch.ops.load_library(str(compiled))
            return False
        except OSError as error:  # The loader's own word for a library of another build.
            reason = str(error).splitlines()[0]
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(_SCHEMAS[name])
    _library = library
    _log.debug("torchvision's compiled operators do not load (%s); %s declared", reason, " and ".join(missing))
    return True
