"""A file or its bytes → an RGB picture, whatever its mode; says what is wrong with a file that is no picture.

Orientation marks (EXIF) are not applied, because LLaVA, transformers and open_clip do not apply them either. Of an
animation the first frame is read.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY_16 = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # whole numbers 0…65535; Pillow reads a 16-bit PGM as `I`
_STEP = 257  # 65535 / 255


def to_rgb(image: Image) -> Image:
    """Returns an RGB picture, equal to PIL's `convert("RGB")` but for 16-bit grey.

    Transparency is dropped as `convert` drops it, and as LLaVA and open_clip drop it: the colours that a transparent
    pixel hides become visible (transformers from 5 on would lay the picture on white). Trap: on the way to RGB, Pillow
    clips 16-bit grey at 255, which turns the picture white; here 0…65535 becomes 0…255.

    Raises:
        DataError: The picture has no pixels, or values whose range its mode does not tell.
    """
    if image.width == 0 or image.height == 0:
        raise DataError(
            f"a picture of {image.width}×{image.height} pixels has nothing to show", fix="leave the picture out"
        )
    if image.mode == "RGB":
        return image
    if image.mode in _GREY_16:
        return _grey_16_to_8(image).convert("RGB")
    if image.mode == "F":
        raise DataError(
            "a picture of floating-point values (mode F) does not say which value is white",
            fix="save it as PNG or JPEG with 8 bits per channel",
        )
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise DataError(
            f"a picture of mode {image.mode} cannot be shown as RGB: {error}", fix="save it as an RGB PNG or JPEG"
        ) from error


def _grey_16_to_8(image: Image) -> Image:
    import numpy as np
    from PIL import Image as PILImage

    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(
            f"a grey picture with values {low} … {high} has more than 16 bits (mode {image.mode})",
            fix="save it with 8 or 16 bits per channel",
        )
    return PILImage.fromarray(((values + _STEP // 2) // _STEP).astype(np.uint8))


def open_picture(source: Path | bytes, *, where: str = "") -> Image:
    """Returns the decoded picture in RGB (see `to_rgb`).

    Args:
        source: A file, or the bytes of one.
        where: What named the picture, for the message: a row of a table, a member of an archive. Without it a file is
            named by its path.

    Raises:
        DataError: It is missing, empty, truncated, no picture, far too large, or its values have no known range.
    """
    from PIL import Image as PILImage
    from PIL import ImageFile, UnidentifiedImageError

    # Trap: lmms-eval, once imported, lets Pillow fill what a cut-off picture lacks with grey, for the whole process.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    subject = f"the picture '{source.name}'" if isinstance(source, Path) else "the picture"
    where = where or (str(source) if isinstance(source, Path) else "")
    data = _read(source, subject, where) if isinstance(source, Path) else source
    if not data:
        raise DataError(f"{subject} is empty (0 bytes)", where=where, fix="get the file again")
    try:
        with PILImage.open(BytesIO(data)) as image:
            image.load()
            return to_rgb(image)
    except DataError as error:
        raise DataError(f"{subject} cannot be used: {error.what}", where=where, fix=error.fix) from error
    except UnidentifiedImageError:
        raise DataError(
            f"{subject} is in no format that Pillow can read",
            where=where,
            fix="get the file again, or save it as PNG or JPEG",
        ) from None
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise DataError(
            f"{subject} is too large: {error}", where=where, fix="save it smaller; no encoder reads that many pixels"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # Trap: on damaged files some decoders raise RuntimeError, TypeError or IndexError.
        raise DataError(f"{subject} is truncated or damaged: {error}", where=where, fix="get the file again") from error


def _read(path: Path, subject: str, where: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{subject} is missing", where=where, fix="correct the path, or put the file there") from None
    except OSError as error:
        raise DataError(
            f"{subject} cannot be read: {error.strerror or error}", where=where, fix="name a file that you may read"
        ) from error
