"""ovbench: how good is a frozen vision encoder, for understanding and for generation, in one honest table."""

from __future__ import annotations

__version__ = "0.1.0"
