"""Files that appear whole or not at all, JSON and JSONL, and one lock per folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError, RecordError


def _write_error(error: OSError, path: Path) -> ConfigError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigError(
            f"no space left on the device while writing '{path.name}'",
            where=str(path.parent),
            fix="free some space, or choose another folder (--out, OVBENCH_CACHE); finished steps are kept",
        )
    return ConfigError(
        f"cannot write '{path.name}': {error.strerror or error}",
        where=str(path.parent),
        fix="choose a folder that you may write to: --out for results, OVBENCH_CACHE for the cache",
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an operating-system error raised while writing `path` into an error for the user."""
    try:
        yield
    except OSError as error:
        raise _write_error(error, path) from error


def make_dir(path: Path) -> Path:
    """Creates a folder and its parents and returns it.

    Raises:
        ConfigError: The folder cannot be made or written to.
    """
    with writing(path / "."):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    return path


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields an empty temporary file beside `path` that takes its place when the block ends without an error.

    Raises:
        ConfigError: It cannot be written, for instance on a full disk; nothing is left behind then.
    """
    make_dir(path.parent)
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb") as stream:
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def atomic_write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    atomic_write_bytes(path, text.encode())


def to_json(value: Any) -> str:
    """Returns JSON as ovbench stores it: sorted keys, two spaces, a final newline, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `to_json(value)` atomically."""
    atomic_write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: The file is absent, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"'{path.name}' cannot be read as JSON: {error}", where=str(path)) from error


def cut_torn_tail(path: Path) -> None:
    """Removes a last line without a newline, so that the next row starts on a line of its own."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(end - 1)
        if stream.read(1) == b"\n":
            return
        while end > 0:
            start = max(0, end - (1 << 16))
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                stream.truncate(start + newline + 1)
                return
            end = start
        stream.truncate(0)


def jsonl(rows: Iterable[Any]) -> str:
    """Returns rows as ovbench stores them in JSONL: one object a line, sorted keys, every line ended."""
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's content.

    Raises:
        ConfigError: The target cannot be written, for instance on a full disk.
    """
    with writing(target):
        shutil.copyfile(source, target)


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Appends rows, one JSON object a line, and flushes them to disk before returning.

    A last line that an earlier crash cut off is removed first, since nothing can be appended to half a row.
    """
    make_dir(path.parent)
    text = jsonl(rows)
    with writing(path):
        cut_torn_tail(path)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


def read_jsonl(path: Path, *, drop_torn_tail: bool = False) -> list[Any]:
    """Reads a JSONL file.

    Args:
        path: The file.
        drop_torn_tail: Leave out a last line that was cut off by a crash, instead of raising.

    Raises:
        DataError: A line is not JSON; the message names it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error
    if drop_torn_tail:
        # Contract: a writer ends every row with a newline, so a line without one is torn. It is cut off as bytes,
        # because the tear can lie inside a character.
        data = data[: data.rfind(b"\n") + 1]
    rows: list[Any] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode()))
        except ValueError as error:  # not UTF-8, or not JSON
            raise DataError(f"line {number} is not JSON: {error}", where=str(path)) from error
    return rows


@contextlib.contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target` that takes its place when the block ends without an error."""
    make_dir(target.parent)
    with writing(target):
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield temporary
        with writing(target):
            if target.exists():
                shutil.rmtree(target)
            os.chmod(temporary, 0o755)
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: bool = False, purpose: str = "run") -> Iterator[None]:
    """Holds the one lock of a folder; the operating system frees it when the process dies.

    Args:
        folder: The folder; created when absent.
        wait: Wait for the holder instead of raising.
        purpose: What the folder is used for, for the message.

    Raises:
        RecordError: Another process holds the lock and `wait` is off.
    """
    make_dir(folder)
    path = folder / ".lock"
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with writing(path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode(errors="replace").strip()
                raise RecordError(
                    f"another {purpose} is using this folder" + (f" (process {holder})" if holder else ""),
                    where=str(folder),
                    fix="wait for it to end, or choose another folder with --out",
                ) from None
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)
