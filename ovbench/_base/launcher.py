"""What `torchrun` or `accelerate launch` says of this process; without a launcher it is the only one."""

from __future__ import annotations

import os

_START = ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")  # what tells starts apart; the note stays


def world_size() -> int:
    """Returns how many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns the number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """Returns the number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def first_to_say(text: str) -> bool:
    """Whether this process is the one of its machine that says a text; without a launcher it is.

    A text that one process alone has, such as a GPU that it lacks, is said by that one. The note that it was said is an
    empty file in the folder for temporary files, named by this start of the launcher and the text.
    """
    if world_size() < 2:
        return True
    import hashlib
    import tempfile

    parent = os.getppid()
    words = [os.environ.get(name, "") for name in _START]
    start = f"{parent} {_started(parent)} {' '.join(words)}"
    name = hashlib.sha256(f"{start} {text}".encode()).hexdigest()[:24]
    path = os.path.join(tempfile.gettempdir(), f"ovbench-said-{name}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True  # nowhere to leave a note: better said twice than never
    return True


def _started(process: int) -> str:
    """Returns when a process began, in the system's ticks; empty where the system does not say (not Linux)."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            # Field 22; the second one, the program's name in brackets, may hold blanks.
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
