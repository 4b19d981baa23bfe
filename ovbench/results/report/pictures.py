"""Pictures inside the page: small enough together, each held once, as PNG where that is no larger than it need be."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovbench.results.report.gather import Run

# (longest side in px, JPEG quality), tried in turn until all pictures of one kind fit into their share of the page.
_SIZES = ((1056, 92), (1056, 85), (800, 82), (528, 80), (384, 75), (256, 70), (160, 65))
_PNG_BYTES = 40_000  # up to here a picture stays as it is: no loss
SHEET_BYTES = 1_900_000  # of all sheets together, before base64 makes them a third larger
QUESTION_BYTES = 1_100_000
_SUITES = ("generation", "reconstruction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture, ready for the page."""

    uri: str
    width: int
    height: int
    shrunk: bool  # smaller, or not as exact, as the file


@dataclass(frozen=True, kw_only=True, slots=True)
class Album:
    """Pictures by id, and which name means which."""

    pictures: Mapping[str, Picture] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)  # name → id
    faults: Mapping[str, str] = field(default_factory=dict)  # name → why there is none

    def of(self, name: str) -> Picture | None:
        """Returns the picture of a name."""
        return self.pictures.get(self.ids.get(name, ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """Pictures that a run made, as one grid."""

    run_id: str
    encoder: str
    title: str
    badge: str
    picture: Picture | None
    fault: str  # why there is none


def album(files: Mapping[str, bytes], budget: int, prefix: str) -> Album:
    """Returns pictures that fit together into `budget` bytes; equal files are held once.

    Args:
        files: Name → content of a picture file.
        budget: Bytes of all encoded pictures; where the smallest size is too large, the last ones are left out.
        prefix: Begins their ids.
    """
    by_digest: dict[str, bytes] = {}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        by_digest.setdefault(digests[name], data)
    opened, broken = _opened(by_digest)
    encoded: dict[str, tuple[bytes, str, int, int, bool]] = {}
    for longest, quality in _SIZES:
        encoded = {digest: _encoded(by_digest[digest], image, longest, quality) for digest, image in opened.items()}
        if sum(len(entry[0]) for entry in encoded.values()) <= budget:
            break
    pictures: dict[str, Picture] = {}
    ids: dict[str, str] = {}
    used = 0
    for number, (digest, (data, kind, width, height, shrunk)) in enumerate(encoded.items(), 1):
        used += len(data)
        if used > budget:
            broken[digest] = "left out: the page would become too large"
            continue
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        ids[digest] = f"{prefix}{number}"
        pictures[f"{prefix}{number}"] = Picture(uri=uri, width=width, height=height, shrunk=shrunk)
    return Album(
        pictures=pictures,
        ids={name: ids[digest] for name, digest in digests.items() if digest in ids},
        faults={name: broken[digest] for name, digest in digests.items() if digest in broken},
    )


def _opened(files: Mapping[str, bytes]) -> tuple[dict[str, object], dict[str, str]]:
    from PIL import Image

    opened: dict[str, object] = {}
    broken: dict[str, str] = {}
    for digest, data in files.items():
        try:
            with Image.open(io.BytesIO(data)) as image:
                opened[digest] = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken[digest] = f"the picture cannot be read: {type(error).__name__}"
    return opened, broken


def _encoded(data: bytes, image: object, longest: int, quality: int) -> tuple[bytes, str, int, int, bool]:
    """Returns bytes, format, width, height, and whether something was lost."""
    from PIL import Image

    assert isinstance(image, Image.Image), "_opened made it"
    small = image.copy()
    small.thumbnail((longest, longest))
    if data.startswith(b"\x89PNG") and small.size == image.size and len(data) <= _PNG_BYTES:
        return data, "png", *small.size, False
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=quality, subsampling=0)
    return stream.getvalue(), "jpeg", *small.size, True


def sheets(runs: Sequence[Run]) -> list[Sheet]:
    """Returns the grids of samples and reconstructions of all finished runs of pictures, by title and encoder.

    A run whose sheet is missing or damaged stands there with the reason.
    """
    files: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    drawn = [run for run in runs if run.record.suite in _SUITES and run.record.complete]
    for run in drawn:
        paths = sorted(run.folder.glob("*.png"))
        for path in paths:
            try:
                files[_name(run.folder, path)] = path.read_bytes()
            except OSError as error:
                missing[_name(run.folder, path)] = f"{path.name} cannot be read: {error.strerror}"
        if not paths:
            missing[f"{run.folder.name}/"] = "the run's folder holds no sheet"
    made = album(files, SHEET_BYTES, "s")
    by_folder = {run.folder.name: run.record for run in drawn}
    found: list[Sheet] = []
    for name in sorted({*files, *missing}):
        folder, _, file = name.partition("/")
        record = by_folder[folder]
        word = file.removesuffix(".png") or record.suite
        found.append(
            Sheet(
                run_id=record.run_id,
                encoder=record.encoder.spec,
                title=f"{word} · {record.protocol.label} · seed {record.seed}",
                badge="random weights" if record.encoder.untrained else "control" if record.encoder.control else "",
                picture=made.of(name),
                fault=missing.get(name, "") or made.faults.get(name, ""),
            )
        )
    return sorted(found, key=lambda sheet: (sheet.title, sheet.encoder, sheet.run_id))


def _name(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.name}"
