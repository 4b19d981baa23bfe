"""What two runs have, or were made with, in different ways; and which of it makes their scores incomparable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ovbench._base.fingerprint import canonical_json
from ovbench.harness.comparison.result import Setting
from ovbench.results.record import RunRecord, SourceRecord

_DIGITS = 12  # of a digest that is shown
_ENCODER = (
    "spec", "objective", "weights", "weights_digest", "num_params", "num_params_frontend", "resolution_px", "grid",
    "num_tokens", "dim", "tap", "adapter_version",
)  # fmt: skip
_MACHINE = (
    "ovbench_version",
    "git_commit",
    "git_dirty",
    "python",
    "device",
    "device_name",
    "dtype",
    "num_threads",
    "cpu",
)
_TASK = ("version", "scorer", "data_digest", "n", "headline")


def differing(first: RunRecord, second: RunRecord) -> tuple[Setting, ...]:
    """Returns every setting in which two runs differ: encoder, protocol, seed, limit, tasks, sources, machine.

    Another protocol, limit, task version, scorer or data makes scores incomparable (`breaks`); another encoder, seed,
    source or version of a package does not.
    """
    encoders = first.encoder, second.encoder
    found = [_setting(f"encoder {name}", *(getattr(encoder, name) for encoder in encoders)) for name in _ENCODER]
    if first.protocol.label != second.protocol.label:
        found.append(_setting("protocol", first.protocol.label, second.protocol.label, breaks=True))
    contents = [dict(_flat("protocol", record.protocol.content)) for record in (first, second)]
    for key in dict.fromkeys([*contents[0], *contents[1]]):
        if key not in ("protocol name", "protocol version"):
            found.append(_setting(key, contents[0].get(key), contents[1].get(key), breaks=True))
    found.append(_setting("seed", first.seed, second.seed))
    found.append(_setting("limit", first.limit, second.limit, breaks=True))
    for task in first.tasks:
        other = second.task(task.name)
        for name in _TASK if other is not None else ():
            found.append(_setting(f"{task.name} {name}", getattr(task, name), getattr(other, name), breaks=True))
    sources = [_by_role(record.sources) for record in (first, second)]
    found += [
        _setting(f"{role} digest", *(side.get(role) for side in sources)) for role in {**sources[0], **sources[1]}
    ]
    machines = first.environment, second.environment
    found += [_setting(name, *(getattr(machine, name) for machine in machines)) for name in _MACHINE]
    packages = [machine.packages for machine in machines]
    found += [
        _setting(f"package {name}", packages[0].get(name), packages[1].get(name))
        for name in dict.fromkeys([*packages[0], *packages[1]])
    ]
    return tuple(entry for entry in found if entry.first != entry.second)


def _by_role(sources: Sequence[SourceRecord]) -> dict[str, str]:
    """Returns role → digest; of several sources of one role, their digests one behind the other."""
    found: dict[str, list[str]] = {}
    for source in sources:
        found.setdefault(source.role, []).append(source.digest)
    return {
        role: digests[0] if len(digests) == 1 else ", ".join(d[:_DIGITS] for d in digests)
        for role, digests in found.items()
    }


def _setting(name: str, first: Any, second: Any, *, breaks: bool = False) -> Setting:
    one, two = _text(first), _text(second)
    if "digest" in name and one[:_DIGITS] != two[:_DIGITS]:
        one, two = one[:_DIGITS], two[:_DIGITS]
    return Setting(name=name, first=one, second=two, breaks=breaks)


def _text(value: Any) -> str:
    if value is None:
        return "—"
    return value if isinstance(value, str) else canonical_json(value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(f"{path} {key}", part)
    else:
        yield path, value
