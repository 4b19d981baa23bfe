"""How progress looks: bars on a terminal, plain lines in a log, JSON lines for machines. Always on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovbench.harness.events import Event, Listener

_PLAIN_EVERY_S = 10.0


@contextmanager
def listening(*, as_json: bool) -> Iterator[Listener]:
    """Yields the listener that fits where stderr goes."""
    if as_json:
        yield _Lines(_json_line, every_s=1.0)
    elif sys.stderr.isatty():
        yield from _bars()
    else:
        yield _Lines(_plain_line, every_s=_PLAIN_EVERY_S)


def _seconds(value: float | None) -> str:
    if value is None:
        return "?"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d}"


def _plain_line(event: Event) -> str:
    head = f"{event.job}  {event.step}"
    if event.state == "started":
        return f"{head}  started"
    if event.state == "cached":
        return f"{head}  from cache"
    if event.state == "finished":
        return f"{head}  done in {_seconds(event.elapsed_s)}"
    extra = "".join(f"  {name} {value:.3f}" for name, value in event.fields.items())
    return f"{head}  {event.done}/{event.total}  ETA {_seconds(event.eta_s)}{extra}"


def to_json_line(value: dict[str, Any]) -> str:
    """Returns one line of JSON."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _json_line(event: Event) -> str:
    return to_json_line(asdict(event))


class _Lines:
    """Writes one line per event, progress only every few seconds per step."""

    def __init__(self, render: Any, *, every_s: float) -> None:
        self._render, self._every_s = render, every_s
        self._last: dict[tuple[str, str], float] = {}

    def __call__(self, event: Event) -> None:
        key, now = (event.job, event.step), time.monotonic()
        if event.state == "progress":
            if now - self._last.get(key, now if event.done < event.total else 0.0) < self._every_s:
                self._last.setdefault(key, now)
                return
            self._last[key] = now
        sys.stderr.write(self._render(event) + "\n")
        sys.stderr.flush()


def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[tuple[str, str], Any] = {}

        def listener(event: Event) -> None:
            key = (event.job, event.step)
            if event.state == "started":
                tasks[key] = bars.add_task(f"{event.job}  {event.step}", total=None, note="")
            elif event.state == "progress" and key in tasks:
                note = " ".join(f"{name} {value:.3f}" for name, value in event.fields.items())
                bars.update(tasks[key], completed=event.done, total=event.total, note=note)
            else:
                if key in tasks:
                    bars.remove_task(tasks.pop(key))
                console.print(_plain_line(event), style="dim" if event.state == "cached" else "")

        yield listener
