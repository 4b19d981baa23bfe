"""Where questions come from: the garment world, or local files (JSONL, CSV, TSV, Parquet) with images beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import read_jsonl
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.names import lookup, unknown
from ovbench.tasks.base import Sample, TaskData, TaskSpec
from ovbench.tasks.prompts import LETTERS, build_prompt

if TYPE_CHECKING:
    import numpy as np

WORLD_VERSION = 1  # of scenes, drawing and questions: raised when any of them changes
_WORLD_KEYS = {"type", "questions", "split", "seed", "num_scenes", "per_group"}
_FILE_KEYS = {"type", "path", "images", "columns"}
_COLUMNS = {"image", "question", "options", "answer", "group", "id"}


def load_data(spec: TaskSpec, *, limit: int | None = None) -> TaskData:
    """Returns a task's questions; images are opened when they are asked for.

    Args:
        spec: The task.
        limit: At most this many questions, taken from the groups in turn, in their own order.

    Raises:
        ConfigError: The limit is below 1, or the source is described wrongly.
        DataError: A file, a column or an answer is missing or broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be 1 or more, got {limit}", where="--limit", fix="leave it out to ask everything")
    kind = spec.source.get("type")
    readers = {"world": _read_world, "jsonl": _read_file, "csv": _read_file, "tsv": _read_file, "parquet": _read_file}
    reader = lookup(readers, str(kind), kind="source type", where=f"task '{spec.name}', source.type")
    samples, digest, image = reader(spec)
    chosen = samples if limit is None else balanced_subset(samples, limit)
    return TaskData(
        spec=spec,
        samples=tuple(chosen),
        digest=digest if limit is None else fingerprint({"data": digest, "limit": limit}),
        image=image,
        num_total=len(samples),
    )


def balanced_subset(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """Returns `limit` samples, one group after the other in turn; the order of the task is kept."""
    queues: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        queues.setdefault(sample.group, []).append(index)
    taken: list[int] = []
    depth = 0
    while len(taken) < min(limit, len(samples)):
        layer = [queue[depth] for queue in queues.values() if depth < len(queue)]
        taken += layer[: limit - len(taken)]
        depth += 1
    return [samples[index] for index in sorted(taken)]


def _check_keys(spec: TaskSpec, known: set[str], required: set[str]) -> None:
    where = f"task '{spec.name}', source"
    for key in spec.source:
        if key not in known:
            raise unknown("key", key, known, where=where)
    if missing := sorted(required - set(spec.source)):
        raise ConfigError(f"the key '{missing[0]}' is missing", where=where, fix="see docs/add-a-benchmark.md")


_Read = tuple[list[Sample], str, Callable[[str], "np.ndarray"]]


def _read_world(spec: TaskSpec) -> _Read:
    from ovbench.tasks.world.draw import draw_scene, embedded_sprites
    from ovbench.tasks.world.questions import pope_questions, seed_questions

    _check_keys(spec, _WORLD_KEYS, _WORLD_KEYS)
    source = spec.source
    seed, split, num_scenes = int(source["seed"]), str(source["split"]), int(source["num_scenes"])
    where = f"task '{spec.name}', source"
    lookup({"train": 0, "test": 0}, split, kind="split", where=where)
    maker = lookup({"seed": 0, "pope": 1}, str(source["questions"]), kind="question set", where=where)
    if maker == 0:
        asked = seed_questions(seed, split, num_scenes=num_scenes, per_kind=int(source["per_group"]))
    else:
        asked = pope_questions(seed, split, num_scenes=num_scenes, per_split=int(source["per_group"]))
    scenes = {item.scene.image_id: item.scene for item in asked}
    samples = [
        Sample(
            item_id=f"{item.group}-{number:04d}",
            image_id=item.scene.image_id,
            question=item.question.text,
            prompt=build_prompt(spec.prompt, item.question.text, item.options),
            options=item.options,
            answer=item.question.answer,
            group=item.group,
        )
        for number, item in enumerate(asked)
    ]
    sprites = embedded_sprites(split)
    digest = fingerprint({"world": WORLD_VERSION, "source": source, "prompt": spec.prompt, "sprites": sprites.digest})
    return samples, digest, lambda image_id: draw_scene(scenes[image_id], sprites)


def _rows(path: Path, kind: str) -> list[dict[str, Any]]:
    if kind == "jsonl":
        return read_jsonl(path)
    if not path.is_file():
        raise DataError(f"no such file '{path.name}'", where=str(path.parent))
    import pandas

    try:
        if kind == "parquet":
            frame = pandas.read_parquet(path)
        else:
            frame = pandas.read_csv(path, sep="\t" if kind == "tsv" else ",", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"'{path.name}' cannot be read as {kind}: {error}", where=str(path)) from error
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _cell(row: Mapping[str, Any], column: str, line: int, path: Path) -> Any:
    if column not in row:
        near = unknown("column", column, row, where=f"{path}, row {line}")
        raise DataError(near.what, where=near.where, fix=near.fix)
    return row[column]


def _options(row: Mapping[str, Any], columns: Mapping[str, Any], line: int, path: Path, kind: str) -> tuple[str, ...]:
    if kind == "yesno":
        return ("yes", "no")
    wanted = columns.get("options")
    if isinstance(wanted, list):
        return tuple(str(_cell(row, name, line, path)) for name in wanted)
    value = _cell(row, str(wanted), line, path)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"row {line}: the options are not a JSON list", where=str(path)) from error
    return tuple(str(item) for item in value)


def _answer(value: Any, options: tuple[str, ...], line: int, path: Path) -> str:
    text = str(value).strip()
    by_text = {option.strip().lower(): option for option in options}
    if text.lower() in by_text:
        return by_text[text.lower()]
    if len(text) == 1 and text.upper() in LETTERS[: len(options)]:
        return options[LETTERS.index(text.upper())]
    if text.isdecimal() and int(text) < len(options):
        return options[int(text)]
    raise DataError(
        f"row {line}: the answer '{text}' is none of the options",
        where=str(path),
        fix=f"give the option's text, its letter or its index from 0; options: {', '.join(options)}",
    )


def _read_file(spec: TaskSpec) -> _Read:
    _check_keys(spec, _FILE_KEYS, {"type", "path", "columns"})
    columns = spec.source["columns"]
    where = f"task '{spec.name}', source.columns"
    if not isinstance(columns, Mapping):
        raise ConfigError("columns must map our names to yours", where=where, fix="see docs/add-a-benchmark.md")
    for key in columns:
        if key not in _COLUMNS:
            raise unknown("column role", str(key), _COLUMNS, where=where)
    needed = {"image", "question", "answer"} | ({"options"} if spec.kind == "choice" else set())
    if missing := sorted(needed - set(columns)):
        raise ConfigError(f"no column is named for '{missing[0]}'", where=where, fix="see docs/add-a-benchmark.md")
    home = Path(spec.origin).resolve().parent
    path = home / str(spec.source["path"])
    folder = home / str(spec.source.get("images", path.parent))
    rows = _rows(path, str(spec.source["type"]))
    if not rows:
        raise DataError(f"'{path.name}' holds no rows", where=str(path))
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, start=1):
        options = _options(row, columns, line, path, spec.kind)
        item_id = str(_cell(row, columns["id"], line, path)) if "id" in columns else f"{line - 1:06d}"
        if item_id in seen:
            raise DataError(
                f"rows {seen[item_id]} and {line} have the same id '{item_id}'",
                where=str(path),
                fix="make the ids unique, or leave 'id' out of columns to count the rows",
            )
        seen[item_id] = line
        question = str(_cell(row, columns["question"], line, path))
        samples.append(
            Sample(
                item_id=item_id,
                image_id=str(_cell(row, columns["image"], line, path)),
                question=question,
                prompt=build_prompt(spec.prompt, question, options),
                options=options,
                answer=_answer(_cell(row, columns["answer"], line, path), options, line, path),
                group=str(_cell(row, columns["group"], line, path)) if "group" in columns else "",
            )
        )
    image_ids = sorted({sample.image_id for sample in samples})
    if missing_images := [name for name in image_ids if not (folder / name).is_file()]:
        raise DataError(
            f"{len(missing_images)} of {len(image_ids)} images are missing, the first is '{missing_images[0]}'",
            where=str(folder),
            fix="check 'images' in the task's source; paths count from there",
        )
    digest = fingerprint(
        {
            "rows": file_sha256(path),
            "columns": columns,
            "prompt": spec.prompt,
            "images": {name: file_sha256(folder / name) for name in image_ids},
        }
    )
    return samples, digest, lru_cache(maxsize=64)(lambda image_id: _open_image(folder / image_id))


def _open_image(path: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"the image '{path.name}' cannot be read: {error}", where=str(path.parent)) from error
