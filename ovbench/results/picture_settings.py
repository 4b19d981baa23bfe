"""What a record of pictures says about how they were made: guidance, decoder, given weights, number of samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovbench.results.record import MetricValue, RunRecord, TaskRecord

PICTURE_KINDS = ("generation", "reconstruction")  # kinds of tasks that score pictures
READ_BACK = "class read-back"  # the metric of that name
_GUIDANCE = re.compile(r", guidance (?P<text>[^,]+)")  # in a scorer's words
_DECODER = re.compile(r"; decoder (?P<name>\w+)")  # in the words of how an interval was made
_SHOWN_DIGITS = 8
# Units of distances that cannot be negative. An unbiased estimate such as KID can.
_POSITIVE_UNITS = ("squared feature units", "distance")


def guidance_of(record: RunRecord) -> str:
    """Returns what samples were guided by, as `--guidance` reads it, with the digest of a guide; empty: no samples."""
    for task in record.tasks:
        if (found := _GUIDANCE.search(task.scorer)) is not None:
            guide = given_of(record).get("guide")
            return found["text"] + (f", guide {guide[:_SHOWN_DIGITS]}" if guide else "")
    return ""


def given_of(record: RunRecord) -> Mapping[str, str]:
    """Returns the digests of what the protocol did not make, by name of the option."""
    return record.protocol.content.get("given") or {}


def without_guidance(record: RunRecord) -> RunRecord:
    """Returns the record as if guidance were no part of its protocol: equal for all runs of a sweep."""
    content = {key: value for key, value in record.protocol.content.items() if key not in ("guidance", "given")}
    given = {name: digest for name, digest in given_of(record).items() if name != "guide"}
    if given:
        content["given"] = given
    name, *departures = record.protocol.name.split(", ")
    kept: list[str] = []
    for text in departures:
        if text.startswith("given "):
            names = [word for word in text.removeprefix("given ").split(" + ") if word != "guide"]
            kept += [f"given {' + '.join(names)}"] if names else []
        elif not text.startswith("guidance "):
            kept.append(text)
    tasks = tuple(replace(task, scorer=_GUIDANCE.sub("", task.scorer)) for task in record.tasks)
    protocol = replace(record.protocol, name=", ".join([name, *kept]), content=content)
    return replace(record, protocol=protocol, tasks=tasks)


def decoder_of(record: RunRecord) -> str:
    """Returns which decoder made the pictures: `native`, `rae`, or `rae, given`; empty: not of pictures."""
    names = {found["name"] for metric in record.metrics if (found := _DECODER.search(metric.interval)) is not None}
    given = ", given" if "decoder" in given_of(record) else ""
    return "".join(sorted(names)) + given if names else ""


def count_of_protocol(record: RunRecord) -> int | None:
    """Returns how many samples the protocol asks for; None: not of samples, or not known."""
    return _number(record, "sampling", "num_samples")


def chance_of(record: RunRecord, task: TaskRecord, metric: str) -> float | None:
    """Returns what a blind guess gives in a metric of pictures; None: there is no such level."""
    classes = _number(record, "data", "num_classes")
    if task.kind != "generation" or metric != READ_BACK or not classes:
        return None
    return 1.0 / classes


def details_of(record: RunRecord) -> tuple[str, ...]:
    """Returns what a table's title says of its pictures beside the protocol's name."""
    parts: list[str] = []
    expected = count_of_protocol(record)
    for count in sorted({task.n for task in record.tasks if task.kind == "generation"}):
        if expected is not None and count != expected:
            parts.append(f"{count:,} samples in place of {expected:,}")
    if given := given_of(record):
        parts.append("given " + ", ".join(f"{name} {given[name][:_SHOWN_DIGITS]}" for name in sorted(given)))
    return tuple(parts)


def cut_at_0(metric: MetricValue) -> MetricValue:
    """Returns a distance whose interval does not reach below 0, and says where it did."""
    if metric.low is None or metric.high is None or metric.low >= 0 or metric.unit not in _POSITIVE_UNITS:
        return metric
    return replace(metric, low=0.0, high=max(0.0, metric.high), interval=f"{metric.interval}; {CUT}")


CUT = "cut at 0"


def _number(record: RunRecord, section: str, key: str) -> int | None:
    """Returns a whole number of the protocol's section `generation`; None: it says none."""
    found: Any = record.protocol.content.get("generation")
    for name in (section, key):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else None
