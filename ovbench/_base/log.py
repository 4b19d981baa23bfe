"""Logging set-up, called once by the command line; the library itself only calls `logging.getLogger`."""

from __future__ import annotations

import logging
import sys


def configure(*, verbose: bool = False) -> None:
    """Sends ovbench's log to stderr; other libraries' messages only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("ovbench")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
