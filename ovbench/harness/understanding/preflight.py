"""Looks at every row and opens every image before anything is trained, and says by name what is missing or broken.

Nothing is left out silently: bad rows end the run, or are dropped by choice and stay named in the report.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import read_json, write_json
from ovbench.harness.training import Progress, no_progress
from ovbench.harness.understanding.llava_json import LlavaJsonData
from ovbench.harness.understanding.llava_rows import examine
from ovbench.harness.understanding.options_config import OnBad

log = logging.getLogger(__name__)
_VERSION = 1
_WINDOW = 4096  # images that are handed to the threads at a time
_SHOWN = 3  # rows in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReport:
    """What was found about one row."""

    row: int  # in the list, from 1
    id: str  # as the list has it
    kind: str
    detail: str = ""
    image: str = ""  # path as the list has it, where the image is the matter

    @property
    def text(self) -> str:
        """The row in a message."""
        more = self.image or self.detail
        return f"row {self.row} (id {self.id or '-'}): {self.kind}{f' ({more})' if more else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightReport:
    """What was found in the data of one stage."""

    stage: int
    digest: str  # of the list and its options
    json: str
    images: str
    opened_images: bool
    num_rows: int
    num_text_only: int
    num_images: int  # different ones
    bad: tuple[RowReport, ...] = ()  # cannot be trained on
    odd: tuple[RowReport, ...] = ()  # are trained on as they are
    counts: Mapping[str, int] = field(default_factory=dict)  # kind → rows

    @property
    def bad_numbers(self) -> tuple[int, ...]:
        """Rows that cannot be trained on, by their number in the list, from 0; each once."""
        return tuple(sorted({item.row - 1 for item in self.bad}))

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        return {"version": _VERSION, **asdict(self)}

    def summary(self) -> dict[str, Any]:
        """Returns what a record keeps: counts, and no names."""
        return {
            "stage": self.stage,
            "digest": self.digest,
            "opened_images": self.opened_images,
            "num_rows": self.num_rows,
            "num_text_only": self.num_text_only,
            "num_images": self.num_images,
            "num_bad_rows": len(self.bad_numbers),
            "counts": dict(self.counts),
        }


def report_name(stage: int, digest: str) -> str:
    """Returns the file of a stage's report, which is known again by the digest of the data."""
    return f"preflight-stage{stage}-{digest[:16]}.json"


def preflight(
    data: LlavaJsonData,
    stage: int,
    *,
    folder: Path,
    workers: int = 8,
    open_images: bool = True,
    on_bad: OnBad = "refuse",
    progress: Progress = no_progress,
) -> PreflightReport:
    """Looks at the data of a stage.

    A finished preflight is remembered by the digest of the data: the next one opens only those images that were missing
    or broken, in case they have come since.

    Args:
        data: The data; call `without(stage, report.bad_numbers)` on it for what can be trained on.
        stage: 1 or 2.
        folder: Gets the report, `report_name(stage, digest)`.
        workers: Threads that open images.
        open_images: Decode every image. Without it they are only looked for.
        on_bad: `refuse` ends here where a row is bad; `drop` names them in a warning.
        progress: Told of finished images.

    Raises:
        DataError: Rows are bad, and `on_bad` is `refuse`. The report is there.
        ConfigError: `workers` is below 1.
    """
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {workers}", where="preflight")
    path = folder / report_name(stage, data.stage_digest(stage))
    known = _remembered(path, images=data.image_folder(stage), open_images=open_images)
    report = _look(data, stage, workers=workers, open_images=open_images, known=known, progress=progress)
    write_json(path, report.to_json())
    if not report.bad:
        return report
    first = "; ".join(item.text for item in report.bad[:_SHOWN])
    number = len(report.bad_numbers)
    what = f"{number} of {report.num_rows} rows of stage {stage} cannot be trained on: {first}"
    what += f" and {len(report.bad) - _SHOWN} more" if len(report.bad) > _SHOWN else ""
    if number == report.num_rows:
        raise DataError(f"{what}; nothing would be left", where=str(path), fix=f"is {report.images} the image folder?")
    if on_bad == "refuse":
        raise DataError(
            what,
            where=str(path),
            fix="get what is missing (the report names every row), or leave these rows out by choice: --bad-rows drop",
        )
    log.warning("%s; they are left out (--bad-rows drop), all named in %s", what, path)
    return report


def _remembered(path: Path, *, images: Path, open_images: bool) -> set[str] | None:
    """Returns the images that an earlier preflight of the same data found bad; None: there was none, or a shallower."""
    if not path.is_file():
        return None
    try:
        document = read_json(path)
        if document["version"] != _VERSION or (open_images and not document["opened_images"]):
            return None
        if document["images"] != str(images):  # the same list with the pictures of another folder
            return None
        return {item["image"] for item in document["bad"] if item["image"]}
    except (DataError, KeyError, TypeError) as error:
        log.warning("the preflight report %s cannot be read (%s): all images are opened again", path, error)
        return None


def _look(
    data: LlavaJsonData,
    stage: int,
    *,
    workers: int,
    open_images: bool,
    known: set[str] | None,
    progress: Progress,
) -> PreflightReport:
    rows, bad, odd = data.rows(stage), [], []
    by_image: dict[str, list[tuple[int, str]]] = {}
    num_text_only = 0
    numbers = data.numbers(stage).tolist()
    for number in numbers:
        row = rows[number]
        name = str(row.get("id", "")) if isinstance(row, dict) else ""
        sound = True
        for finding in examine(row, stage):
            sound = sound and not finding.fault
            (bad if finding.fault else odd).append(
                RowReport(row=number + 1, id=name, kind=finding.kind, detail=finding.detail)
            )
        image = row.get("image") if isinstance(row, dict) else None
        num_text_only += sound and image is None
        if sound and image is not None:
            by_image.setdefault(image, []).append((number, name))
    wanted = list(by_image) if known is None else [image for image in by_image if image in known]
    for image, fault in _broken(data, stage, wanted, workers=workers, open_images=open_images, progress=progress):
        kind = "missing image" if fault.endswith("is missing") else "broken image"
        detail = "" if kind == "missing image" else fault
        bad += [
            RowReport(row=number + 1, id=name, kind=kind, detail=detail, image=image)
            for number, name in by_image[image]
        ]
    bad.sort(key=lambda item: item.row)
    return PreflightReport(
        stage=stage,
        digest=data.stage_digest(stage),
        json=str(data.json_path(stage)),
        images=str(data.image_folder(stage)),
        opened_images=open_images,
        num_rows=len(numbers),
        num_text_only=num_text_only,
        num_images=len(by_image),
        bad=tuple(bad),
        odd=tuple(odd),
        counts=dict(sorted(Counter(item.kind for item in (*bad, *odd)).items())),
    )


def _broken(
    data: LlavaJsonData, stage: int, images: list[str], *, workers: int, open_images: bool, progress: Progress
) -> Iterator[tuple[str, str]]:
    """Yields the images that cannot be used, and why."""

    def fault(image: str) -> str:
        image_id = data.image_id(stage, image)
        try:
            if open_images:
                data.image(image_id)
            elif not data.image_path(image_id).is_file():
                return "is missing"
        except DataError as error:
            return error.what
        except OSError as error:  # a name that no file can have
            return str(error)
        return ""

    waiting = iter(images)
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="preflight") as pool:
        while window := list(islice(waiting, _WINDOW)):
            for image, found in zip(window, pool.map(fault, window), strict=True):
                if found:
                    yield image, found
            done += len(window)
            progress(done, len(images))
