"""The one table of scoring protocols: a task's scorer → a program's name → how it reads answers and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ovbench.harness.metrics import chartqa, gqa, mmbench, mme, ocrbench, pope, scienceqa, seedbench, vqa
from ovbench.harness.metrics.protocol_base import ScoringProtocol

# A task of the kind `choice` has no benchmark's scorer; SEED-Bench's ways fit it, against its own accuracy.
_CHOICE = {
    name: replace(protocol, ours={protocol.headline: "accuracy"})
    for name, protocol in seedbench.PROTOCOLS.items()
    if name != "cambrian"
}

PROTOCOLS: Mapping[str, Mapping[str, ScoringProtocol]] = {
    "choice": _CHOICE,
    "yesno": pope.PROTOCOLS,
    "open": {},
    "pope": pope.PROTOCOLS,
    "seedbench": seedbench.PROTOCOLS,
    "mme": mme.PROTOCOLS,
    "gqa": gqa.PROTOCOLS,
    "scienceqa": scienceqa.PROTOCOLS,
    "vqa": vqa.PROTOCOLS,
    "mmbench": mmbench.PROTOCOLS,
    "chartqa": chartqa.PROTOCOLS,
    "ocrbench": ocrbench.PROTOCOLS,
}


def protocol_names() -> tuple[str, ...]:
    """Returns the name of every protocol of any scorer, in the order of the table."""
    return tuple(dict.fromkeys(name for table in PROTOCOLS.values() for name in table))
