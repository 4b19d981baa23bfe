"""A picture for people: questions of a task with their images, options and answers."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.errors import ConfigError
from ovbench._base.files import atomic_write_bytes
from ovbench.tasks.base import Sample, TaskData
from ovbench.tasks.sources import balanced_subset

if TYPE_CHECKING:
    from PIL import Image

_SMALL_PX = 96  # images up to this side are drawn three times as large
_SCALE = 3
_IMAGE_PX = 192  # the side of an image on the sheet: 3 x 64; larger ones are fitted into it
_TEXT_PX = 244  # width of the text beside the image
_MARGIN_PX = 10
_FONT_PX = 13
_LINE_PX = 17
_MAX_LINES = 11
_INK, _FAINT, _RIGHT, _PAPER = (24, 24, 24), (120, 120, 120), (0, 112, 48), (255, 255, 255)


def draw_sheet(data: TaskData, path: Path, *, columns: int = 4, count: int | None = None) -> None:
    """Draws a contact sheet as PNG: image, question, options, with the right one marked.

    Args:
        data: The questions.
        path: The file to write; must end in `.png`.
        columns: Questions side by side.
        count: At most this many questions, spread evenly over the groups; None: all of `data`.

    Raises:
        ConfigError: The name does not end in `.png`, a number is below 1, or the file cannot be written.
        DataError: A picture cannot be opened.
    """
    from PIL import Image, ImageDraw, ImageFont

    spec = data.spec
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"'{path.name}' does not end in .png", where="--samples", fix=f"name it {path.with_suffix('.png').name}"
        )
    for name, number in (("columns", columns), ("count", count)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be 1 or more, got {number}", where="sheet of questions")
    groups = spec.groups or tuple(dict.fromkeys(sample.group for sample in data.samples))
    samples = balanced_subset(data.samples, count, groups)
    columns = min(columns, len(samples))
    cell = (_IMAGE_PX + _TEXT_PX + 3 * _MARGIN_PX, _IMAGE_PX + 2 * _MARGIN_PX)
    rows = -(-len(samples) // columns)
    head = _LINE_PX + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (columns * cell[0], head + rows * cell[1]), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_FONT_PX)
    title = f"{spec.name} v{spec.version}: {len(samples)} of {data.num_total} questions. Right answers are green."
    pen.text((_MARGIN_PX, _MARGIN_PX), title, fill=_INK, font=font)
    for place, sample in enumerate(samples):
        row, column = divmod(place, columns)
        left, top = column * cell[0] + _MARGIN_PX, head + row * cell[1]
        sheet.paste(_fitted(Image.fromarray(data.image(sample.image_id))), (left, top))
        for number, (line, ink) in enumerate(_lines(sample)):
            spot = (left + _IMAGE_PX + _MARGIN_PX, top + number * _LINE_PX)
            pen.text(spot, line, fill=ink, font=font)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    try:
        atomic_write_bytes(path, stream.getvalue())
    except ConfigError as error:
        raise ConfigError(error.what, where=f"--samples {path}", fix="choose a folder that you may write to") from error


def _fitted(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if max(picture.size) <= _SMALL_PX:
        width, height = picture.size
        picture = picture.resize((_SCALE * width, _SCALE * height), Image.Resampling.NEAREST)
    picture.thumbnail((_IMAGE_PX, _IMAGE_PX))
    return picture


def _lines(sample: Sample) -> list[tuple[str, tuple[int, int, int]]]:
    width = 34  # characters; the default font is about 7 px wide at this size
    lines = [(f"{sample.item_id}  ({sample.image_id})"[:width], _FAINT)]
    lines += [(line, _INK) for line in textwrap.wrap(sample.question, width, max_lines=5, placeholder=" …")]
    for option in sample.options:
        right = option == sample.answer
        text = f"{'>' if right else '-'} {option}"
        lines.append((textwrap.shorten(text, width, placeholder=" …"), _RIGHT if right else _FAINT))
    return lines[:_MAX_LINES]
