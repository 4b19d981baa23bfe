"""Files of lmms-eval 0.7: `*_results.json` with scores, `*_samples_TASK.jsonl` with one answer a line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_jsonl
from ovbench._base.fingerprint import file_sha256
from ovbench.results.foreign.sheet import ForeignScore, ForeignSheet, finite, has_scores

PROGRAM = "lmms-eval"
_STDERR = "_stderr"


def is_results(document: Any) -> bool:
    """Whether a JSON document is a results file."""
    return isinstance(document, Mapping) and isinstance(document.get("results"), Mapping) and "configs" in document


def read_results(path: Path, document: Mapping[str, Any]) -> ForeignSheet:
    """Returns the scores of a results file; keys are `metric,filter`, with `metric_stderr,filter` beside them."""
    scores: list[ForeignScore] = []
    for task, found in document["results"].items():
        if not isinstance(found, Mapping):
            raise DataError(f"'results.{task}' should be an object", where=str(path))
        better = _part(document, "higher_is_better", task)
        counts = _part(document, "n-samples", task)
        for key, value in found.items():
            name, comma, filters = key.partition(",")
            if not comma or name.endswith(_STDERR) or isinstance(value, Mapping | list):
                continue
            number = finite(value, f"'{key}' of '{task}'", path)
            error = found.get(f"{name}{_STDERR},{filters}")
            direction = better.get(name)
            count = counts.get("effective")
            scores.append(
                ForeignScore(
                    task=task,
                    metric=name if filters == "none" else f"{name} ({filters})",
                    value=number,
                    higher_is_better=direction if isinstance(direction, bool) else None,
                    n=count if isinstance(count, int) else None,
                    error=finite(error, f"'{name}{_STDERR}' of '{task}'", path),
                    reason=None if number is not None else f"the file says {value!r}",
                )
            )
    config = document.get("config")
    config = config if isinstance(config, Mapping) else {}
    words = [str(document.get("model_name") or config.get("model") or ""), str(config.get("model_args") or "")]
    details = [f"tasks: {', '.join(f'{name} v{version}' for name, version in _part(document, 'versions').items())}"]
    details += [f"date {document['date']}"] if document.get("date") else []
    details += [f"git {document['git_hash']}"] if document.get("git_hash") else []
    return ForeignSheet(
        program=PROGRAM,
        path=path,
        digest=file_sha256(path),
        model=" ".join(word for word in words if word),
        scores=has_scores(scores, path, PROGRAM),
        details=tuple(details),
    )


def read_samples(path: Path) -> ForeignSheet:
    """Returns the means of the numbers that a samples file holds for each item.

    Raises:
        DataError: A line is not JSON, or not an item of lmms-eval; the message names it.
    """
    values: dict[str, list[float]] = {}
    rows = read_jsonl(path)
    for line, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or "doc_id" not in row:
            raise DataError(f"item {line} is not a sample of {PROGRAM}: it has no 'doc_id'", where=str(path))
        for key, value in row.items():
            if key not in ("doc_id", "doc_hash") and isinstance(value, bool | int | float):
                if not math.isfinite(value):
                    raise DataError(f"'{key}' of item {line} is {value}", where=str(path))
                values.setdefault(key, []).append(float(value))
    task = path.stem.partition("_samples_")[2] or path.stem
    scores = [
        ForeignScore(task=task, metric=f"mean of {name}", value=sum(found) / len(found), n=len(found))
        for name, found in values.items()
    ]
    return ForeignSheet(
        program=f"{PROGRAM}, samples",
        path=path,
        digest=file_sha256(path),
        model="",
        scores=has_scores(scores, path, PROGRAM),
        details=(f"means over the {len(rows)} items of the file, not the program's own aggregate",),
    )


def _part(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found: Any = document
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
