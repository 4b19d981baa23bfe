"""Checks of labelled pictures before the first second on a GPU: layout, classes, counts, and that pictures decode."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ovbench._base.errors import DataError
from ovbench._base.seeding import numpy_generator
from ovbench.harness.generation.labelled_source import LabelledSource

_WNID = re.compile(r"n\d{8}")  # a class folder of ImageNet
_NAMED = 5


def check_labelled(
    source: LabelledSource,
    *,
    expected_classes: int | None,
    per_class_min: int = 1,
    where: str,
    sample: int = 64,
    seed: int = 0,
    threads: int = 4,
) -> None:
    """Refuses pictures that a training or a score would stumble over.

    Args:
        source: The pictures.
        expected_classes: Classes there must be; None: any number.
        per_class_min: Pictures that every class must have, 1 or more: 50 where 50,000 labels are asked for.
        where: The flag or key that named them, for messages.
        sample: Pictures that are decoded: the first, the last and some between.
        seed: Which ones.
        threads: That decode.

    Raises:
        DataError: A picture lies at the wrong depth, the number of classes is another, a label is out of range, a class
            has too few pictures, a file is empty or cannot be decoded. The first faults are named.
    """
    at = f"{where}: {source.path}"
    if source.misplaced:
        raise _wrong_depth(source, at)
    check_classes(source, expected_classes, where=where)
    counts = np.bincount(source.labels, minlength=len(source.classes))
    if (empty := np.flatnonzero(counts == 0)).size:
        raise DataError(
            f"{empty.size} of {len(counts)} classes have no pictures: {_some([source.classes[i] for i in empty])}",
            where=at,
            fix="unpack the missing pictures; a folder that is no class must lie elsewhere",
        )
    if (few := np.flatnonzero(counts < per_class_min)).size:
        shown = [f"{source.classes[i]} ({counts[i]})" for i in few]
        raise DataError(
            f"{few.size} of {len(counts)} classes have fewer than {per_class_min} pictures: {_some(shown)}",
            where=at,
            fix=f"unpack the missing pictures, or ask for {counts.min()} per class or fewer",
        )
    if source.sizes is not None and (hollow := np.flatnonzero(source.sizes == 0)).size:
        raise DataError(
            f"{hollow.size} pictures are empty (0 bytes): {_some([source.item(int(i)) for i in hollow[:_NAMED]])}",
            where=at,
            fix="get them again",
        )
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        for _ in pool.map(source.read, _sample(source.num_pictures, sample, seed)):
            pass


def check_classes(source: LabelledSource, expected_classes: int | None, *, where: str) -> None:
    """Refuses another number of classes than expected, labels out of range, and a set without pictures.

    Raises:
        DataError: As said; the folder or picture is named.
    """
    at, found = f"{where}: {source.path}", len(source.classes)
    if source.num_pictures == 0:
        if source.misplaced:
            raise _wrong_depth(source, at)
        raise DataError(f"{source.name} holds no pictures", where=at, fix="unpack the pictures there")
    wrong = np.flatnonzero((source.labels < 0) | (source.labels >= found))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{wrong.size} labels are out of range 0…{found - 1}: {source.item(first)} has {source.labels[first]}",
            where=at,
            fix="classes are numbered from 0; a test split of the hub has -1 for all of them: name another split",
        )
    if expected_classes is None or found == expected_classes:
        return
    strange = [name for name in source.classes if not _WNID.fullmatch(name)]
    named = f"; unlike ImageNet's: {_some(strange)}" if 0 < len(strange) < found else ""
    fix = "move what is no class elsewhere" if found > expected_classes else "unpack the archives of the missing ones"
    raise DataError(
        f"{found} classes instead of {expected_classes}{named}",
        where=at,
        fix=f"{fix}: classes are numbered by their sorted names, so one folder too many or too few shifts the rest",
    )


def _wrong_depth(source: LabelledSource, at: str) -> DataError:
    return DataError(
        f"{len(source.misplaced)} pictures lie at the wrong depth: {_some(source.misplaced)}",
        where=at,
        fix="name the folder that holds the class folders; every picture lies in the folder of its class, and no "
        "deeper: n01440764/n01440764_10026.JPEG",
    )


def check_same_classes(train: LabelledSource, test: LabelledSource, *, where: str) -> None:
    """Refuses two sets whose numbers mean different classes.

    Names are compared where both sets have them; a set of tars or parquet files only has numbers.

    Raises:
        DataError: Another number of classes, or folders that only one of them has.
    """
    at = f"{where}: {test.path}"
    if len(train.classes) != len(test.classes):
        ours, theirs = set(train.classes), set(test.classes)
        missing, extra = sorted(ours - theirs), sorted(theirs - ours)
        told = "".join(f"; {what}: {_some(names)}" for what, names in (("missing", missing), ("extra", extra)) if names)
        raise DataError(
            f"{len(test.classes)} classes, and the training pictures have {len(train.classes)}{told}",
            where=at,
            fix="both sets need the same classes",
        )
    if train.kind == test.kind == "folders" and train.classes != test.classes:
        pairs = zip(train.classes, test.classes, strict=True)
        number, (one, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise DataError(
            f"class {number} is '{other}', and '{one}' among the training pictures",
            where=at,
            fix="both sets need the same class folders",
        )


def _sample(count: int, sample: int, seed: int) -> list[int]:
    """Returns the first, the last and some other numbers below `count`, sorted and distinct."""
    if sample >= count:
        return list(range(count))
    drawn = numpy_generator(seed, "imagenet/check").choice(count, size=max(sample - 2, 0), replace=False)
    return sorted({0, count - 1, *map(int, drawn)})


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
