"""Several processes of one command as threads: real shares, barriers and exchanges, without the seconds of a launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ovbench.harness.parallel import Processes


class _Board:
    """Where threads meet and leave values for each other."""

    def __init__(self, count: int) -> None:
        self.meeting = threading.Barrier(count, timeout=60)
        self.values: list[Any] = [None] * count


@dataclass(frozen=True, kw_only=True)
class Rank(Processes):
    """A process among threads."""

    board: _Board

    def barrier(self) -> None:
        self.board.meeting.wait()

    def gather(self, value: Any) -> list[Any]:
        self.board.values[self.rank] = value
        self.board.meeting.wait()
        found = list(self.board.values)
        self.board.meeting.wait()
        return found

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]


def ranks(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Calls `work` once per rank, all at the same time, and returns what each gave; the first error is raised."""
    board, results, errors = _Board(count), [None] * count, [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = work(Rank(rank=rank, world_size=count, board=board))
        except BaseException as error:
            errors[rank] = error  # type: ignore[call-overload]
            board.meeting.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors if error is not None and not isinstance(error, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    return results
