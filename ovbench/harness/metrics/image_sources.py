"""Where the pictures of a score come from: a folder, a zip, an npz or parquet files, read as uint8 batches by threads.

Every picture counts once: what cannot be read, is not 8-bit RGB or has another size is listed by name and refused,
duplicates and constant pictures are counted. Nothing is resized here, apart from ADM's centre crop when asked for.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.pictures import open_picture, to_rgb
from ovbench.encoders.preprocess import adm_center_crop
from ovbench.harness.feature_shards import image_digest
from ovbench.harness.metrics.image_readers import Item, Reader, open_reader

Fault = Literal["unreadable", "not 8-bit RGB", "another size"]
_NAMED = 20  # faults that are looked for and named before giving up


@dataclass(frozen=True, kw_only=True, slots=True)
class BadPicture:
    """A picture that was left out, or that refused the source."""

    name: str
    fault: Fault
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureBatch:
    """Pictures that follow one another in a source."""

    images_u8: np.ndarray  # [B, H, W, 3]
    names: tuple[str, ...]
    keys: tuple[str | None, ...]  # path in the source, to find the pairs of another one; all None where it has none
    digests: tuple[str, ...]  # of the pixels: their identity in the feature cache


@dataclass(kw_only=True, slots=True)
class SourceReport:
    """What was found while a source was read."""

    count: int = 0  # pictures given
    size: tuple[int, int] | None = None  # (height, width)
    bad: list[BadPicture] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)  # not 8-bit RGB, and turned into it because that was asked for
    constant: list[str] = field(default_factory=list)  # pictures of one colour
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # (first, later) picture of equal pixels
    _seen: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def num_distinct(self) -> int:
        """Pictures without repetitions."""
        return len(self._seen)

    @property
    def pixels_sha256(self) -> str:
        """Digest of the set of pictures: of their pixels, in no particular order, with repetitions."""
        return fingerprint([sorted(self._seen), len(self.duplicates), self.size])

    def check_count(self, wanted: int) -> None:
        """Refuses a source that has not exactly `wanted` pictures, all distinct.

        Raises:
            DataError: It has others; padding of the last distributed batch repeats pictures, for instance.
        """
        if self.count != wanted:
            raise DataError(
                f"{self.count} pictures instead of {wanted}", fix="generate the missing ones, or state the number"
            )
        if self.duplicates:
            first, later = self.duplicates[0]
            raise DataError(
                f"{wanted} pictures, but only {self.num_distinct} distinct ones: '{later}' repeats '{first}'",
                fix="remove the repetitions: a padded last batch of a distributed run writes some pictures twice",
            )

    def warnings(self, *, constant_share: float = 0.001) -> list[str]:
        """Returns what a reader of the score must know."""
        found: list[str] = []
        if self.bad:
            found.append(f"{len(self.bad)} pictures were left out, first {self.bad[0]}")
        if self.converted:
            found.append(f"{len(self.converted)} pictures were turned into 8-bit RGB, first {self.converted[0]}")
        if self.duplicates:
            first, later = self.duplicates[0]
            found.append(f"{len(self.duplicates)} pictures repeat others, first '{later}' = '{first}'")
        if len(self.constant) > constant_share * self.count:
            found.append(f"{len(self.constant)} of {self.count} pictures are of one colour, first {self.constant[0]}")
        if self.size is not None and self.size[0] != self.size[1]:
            found.append(f"the pictures are {self.size[1]}×{self.size[0]} pixels; the resize to a square distorts them")
        return found


@dataclass(frozen=True, slots=True)
class _Decoded:
    name: str
    key: str | None
    pixels: np.ndarray
    digest: str
    constant: bool
    converted: str  # what it was; empty: 8-bit RGB


class ImageSource:
    """Pictures that can be counted and read in order, more than once.

    Args:
        path: Folder, zip, npz with `arr_0`, parquet file or folder of parquet files.
        crop_px: Cut ADM's centre square of this size from each picture; None: take it as it is.
        skip_bad: So many unusable pictures are left out and listed; one more refuses the source.
        convert: Turn grey, palette, transparent and 16-bit pictures into 8-bit RGB instead of refusing them.
        limit: Read only the first so many; None: all.
        workers: Threads that decode.

    Raises:
        ConfigError: A setting that cannot be used.
        DataError: There is no such source, it holds no picture, or it cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        crop_px: int | None = None,
        skip_bad: int = 0,
        convert: bool = False,
        limit: int | None = None,
        workers: int = 2,
    ) -> None:
        for name, value, least in (
            ("--crop", crop_px, 1), ("--skip-bad", skip_bad, 0), ("--limit", limit, 1), ("--workers", workers, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                raise ConfigError(
                    f"it must be {least} or more, got {value}", where=name, fix=f"e.g. {name} {max(least, 1)}"
                )
        self.path = Path(path).expanduser()
        self.crop_px, self.skip_bad, self.convert, self.workers = crop_px, skip_bad, convert, workers
        self._reader: Reader = open_reader(self.path)
        available = len(self._reader)
        if available == 0:
            raise DataError(f"'{self.path.name}' holds no pictures", where=str(self.path), fix=self._reader.expects)
        if limit is not None and limit > available:
            raise DataError(
                f"{limit} pictures were asked for, and '{self.path.name}' holds {available}", where=str(self.path)
            )
        self._length = available if limit is None else limit
        self.report = SourceReport()

    def __len__(self) -> int:
        return self._length

    @property
    def crop(self) -> str:
        """What was cut from each picture, as references say it: `none`, or `ADM centre <side>`."""
        return "none" if self.crop_px is None else f"ADM centre {self.crop_px}"

    @property
    def kind(self) -> str:
        """`folder`, `zip`, `npz` or `parquet`."""
        return self._reader.kind

    @property
    def has_keys(self) -> bool:
        """Whether its pictures have keys, to find their pairs in another source; else their order is all there is."""
        return self._reader.has_keys

    @property
    def labels(self) -> np.ndarray | None:
        """Class labels [N] where the source stores them (`arr_1` of an npz)."""
        labels = self._reader.labels
        return None if labels is None else labels[: self._length]

    def quick_key(self) -> str:
        """Returns a digest of names, sizes and times of change: a key for cached statistics, pixels unread."""
        return fingerprint([self._reader.stamp(), self._length, self.crop_px, self.convert, self.skip_bad])

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[PictureBatch]:
        """Yields pictures `start` … `stop` in order; all batches but the last are full.

        Reading begins a new `report`. Unusable pictures are left out while `skip_bad` allows for them.

        Raises:
            ConfigError: A range or batch size that makes no sense.
            DataError: More unusable pictures than `skip_bad` (up to 20 of them are named), or none that is usable.
        """
        end = self._length if stop is None else stop
        if batch_size < 1 or not 0 <= start < end <= self._length:
            raise ConfigError(
                f"pictures {start} … {end} in batches of {batch_size} of a source that holds {self._length}",
                where="batches",
            )
        return self._batches(batch_size, start, end)

    def _batches(self, batch_size: int, start: int, end: int) -> Iterator[PictureBatch]:
        self.report = report = SourceReport()
        waiting: list[_Decoded] = []
        stream = self._decoded(start, end, ahead=max(2 * batch_size, 4 * self.workers))
        # The size of the source is what most of the first pictures have: an odd one at the front is the odd one.
        opening = list(itertools.islice(stream, 32))
        sizes = Counter(item.pixels.shape[:2] for item in opening if isinstance(item, _Decoded))
        if sizes:
            report.size = sizes.most_common(1)[0][0]
        everything = itertools.chain(opening, stream)
        for item in everything:
            usable = self._judge(item, report)
            if usable is None:
                if len(report.bad) > self.skip_bad:
                    self._refuse(everything, report)
                continue
            waiting.append(usable)
            if len(waiting) == batch_size:
                yield _batch(waiting)
                waiting = []
        if report.count == 0:
            self._refuse((), report)
        if waiting:
            yield _batch(waiting)

    def _judge(self, item: _Decoded | BadPicture, report: SourceReport) -> _Decoded | None:
        """Enters a picture into the report; returns it when it is usable."""
        if isinstance(item, BadPicture):
            report.bad.append(item)
            return None
        height, width = item.pixels.shape[:2]
        if report.size is None:
            report.size = (height, width)
        if (height, width) != report.size:
            detail = f"{width}×{height} pixels among {report.size[1]}×{report.size[0]}"
            report.bad.append(BadPicture(name=item.name, fault="another size", detail=detail))
            return None
        report.count += 1
        if item.converted:
            report.converted.append(f"{item.name} ({item.converted})")
        if item.constant:
            report.constant.append(item.name)
        if item.digest in report._seen:
            report.duplicates.append((report._seen[item.digest], item.name))
        else:
            report._seen[item.digest] = item.name
        return item

    def _refuse(self, rest: Iterable[_Decoded | BadPicture], report: SourceReport) -> None:
        """Looks for further unusable pictures, and raises an error that names them."""
        complete = True
        for item in rest:
            self._judge(item, report)
            if len(report.bad) > max(_NAMED, self.skip_bad + 1):
                complete = False
                break
        bad = report.bad
        named = "; ".join(str(entry) for entry in bad[:_NAMED])
        faults = {entry.fault for entry in bad}
        ways = [f"leave out at most so many: --skip-bad {len(bad)}" if complete else "check how the files were written"]
        if "not 8-bit RGB" in faults:
            ways.append("convert them: --convert")
        if "another size" in faults:
            ways.append("cut all to one size: --crop SIZE")
        raise DataError(
            f"{'' if complete else 'more than '}{len(bad) - (not complete)} of {self._length} pictures cannot be "
            f"scored: {named}{'' if complete and len(bad) <= _NAMED else '; …'}",
            where=str(self.path),
            fix=", or ".join(ways) if report.count else "name a source with pictures that can be read",
        )

    def _decoded(self, start: int, end: int, *, ahead: int) -> Iterator[_Decoded | BadPicture]:
        """Yields pictures in order, decoded by threads that are at most `ahead` pictures in front."""
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self.workers, thread_name_prefix="decode"))
            queue: deque[Future[_Decoded | BadPicture]] = deque()
            stack.callback(lambda: [future.cancel() for future in queue])
            for item in self._reader.items(start, end):
                queue.append(pool.submit(self._decode, item))
                if len(queue) >= ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()

    def _decode(self, item: Item) -> _Decoded | BadPicture:
        converted = ""
        try:
            payload = item.load()
            if isinstance(payload, np.ndarray):
                pixels = payload
                if self.crop_px is not None:
                    pixels = np.asarray(adm_center_crop(Image.fromarray(pixels), self.crop_px))
            else:
                converted = _not_rgb(payload)
                if converted and not self.convert:
                    open_picture(payload, where=item.name)  # a damaged file is called damaged
                    return BadPicture(name=item.name, fault="not 8-bit RGB", detail=converted)
                picture = open_picture(payload, where=item.name)
                if self.crop_px is not None:
                    picture = adm_center_crop(picture, self.crop_px)
                pixels = np.asarray(to_rgb(picture))
        except DataError as error:
            return BadPicture(name=item.name, fault="unreadable", detail=error.what)
        pixels = np.ascontiguousarray(pixels)
        return _Decoded(
            item.name,
            item.key,
            pixels,
            image_digest(pixels),
            bool((pixels == pixels[0, 0]).all()),
            converted,
        )


def _not_rgb(data: bytes) -> str:
    """Returns what a file is instead of 8-bit RGB; empty where it is that, or where it cannot be told."""
    # Trap: Pillow opens a PNG of 16 bits per channel as RGB and drops the lower halves. Its header tells.
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:26] in (b"\x10\x02", b"\x10\x06"):
        return "16-bit RGB"
    try:
        with Image.open(BytesIO(data)) as picture:
            mode = picture.mode
            transparent = "transparency" in picture.info
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # `open_picture` says what is wrong
    names = {
        "L": "grey", "1": "black and white", "LA": "grey with alpha", "RGBA": "RGB with alpha", "P": "palette",
        "PA": "palette with alpha", "CMYK": "CMYK", "F": "floating point",
    }  # fmt: skip
    if mode == "RGB":
        return "RGB with a transparent colour" if transparent else ""
    return "16-bit grey" if mode.startswith("I") else names.get(mode, f"mode {mode}")


def _batch(items: Sequence[_Decoded]) -> PictureBatch:
    return PictureBatch(
        images_u8=np.stack([item.pixels for item in items]),
        names=tuple(item.name for item in items),
        keys=tuple(item.key for item in items),
        digests=tuple(item.digest for item in items),
    )
