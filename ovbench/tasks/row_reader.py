"""One row of a file, whatever the file's format → a Row, or an error that names the row. Opens nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.names import suggest
from ovbench.tasks.answers import LETTERS, YES_NO, Kind
from ovbench.tasks.rows import Row

COLUMNS = ("id", "image", "question", "options", "answer", "group")
ONE_GROUP = "all"
ANSWER_FORMS: Mapping[Kind, tuple[str, ...]] = {
    "choice": ("letter", "index", "text"),
    "yesno": ("text",),
    # text: one reference answer; texts: any of several is right; votes: what annotators said, as often as they said it
    "open": ("text", "texts", "votes"),
}
KEYS = ("id", "row", "group-id")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowForm:
    """How the cells of a row become a question."""

    kind: Kind
    columns: Mapping[str, Any]  # of COLUMNS: what the file calls them
    answer: str  # of ANSWER_FORMS[kind]
    key: str = "id"  # what tells rows apart: the id, the row's number, or group and id together
    extra: tuple[str, ...] = ()  # further columns that the prompt or the scorer reads
    question: Mapping[str, Any] = field(default_factory=dict)  # drop, strip, capitalize: changes of its text
    group_names: Mapping[str, str] = field(default_factory=dict)  # cell → name of the group; empty: the cell
    blank: tuple[str, ...] = ()  # words that mean an empty cell, such as `nan`
    as_released: bool = False  # of a published table: outer blanks stay, and so does an option that is given twice

    @classmethod
    def of(cls, kind: Kind, source: Mapping[str, Any], columns: Mapping[str, Any] | None = None) -> RowForm:
        """Returns the form that a checked source declares.

        Args:
            kind: Of the task.
            source: The source.
            columns: Those of one of its layouts; None: the source's own.
        """
        return cls(
            kind=kind,
            columns=source["columns"] if columns is None else columns,
            answer=source["answer"],
            key=source["key"],
            extra=tuple(source.get("extra", ())),
            question=source.get("question", {}),
            group_names=source.get("group_names", {}),
            blank=tuple(source.get("blank", ())),
            as_released=source["type"] == "tables",
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of the file that are read, the picture's among them."""
        named = [
            part for name in self.columns.values() for part in (name if isinstance(name, (list, tuple)) else [name])
        ]
        return tuple(dict.fromkeys([*named, *self.extra]))


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReader:
    """The cells of one row → Row."""

    form: RowForm
    file: str  # for messages
    number: int  # counted from 1, without the header
    cells: Mapping[str, Any]

    def row(self, *, image_id: str | None = None, group: str = "") -> Row:
        """Returns the row.

        Args:
            image_id: Its picture, where the cell does not name it.
            group: Its group, where the file as a whole is one.

        Raises:
            DataError: A column or value is missing or cannot be used.
        """
        columns, form = self.form.columns, self.form
        group = group or self._group()
        options = self._options() if form.kind == "choice" else YES_NO if form.kind == "yesno" else ()
        answers = self._reference_answers() if form.kind == "open" else ()
        key = f"row-{self.number:06d}" if form.key == "row" else self.text(columns["id"])
        return Row(
            item_id=f"{group}-{key}" if form.key == "group-id" else key,
            image_id=self.text(columns["image"]) if image_id is None else image_id,
            question=self._question(),
            options=options,
            answer=next(filter(str.strip, answers)) if form.kind == "open" else self._answer(options),
            group=group,
            answers=answers,
            extra={name: self._extra(name) for name in form.extra},
        )

    def fault(self, what: str, *, fix: str = "") -> DataError:
        """Returns an error that names the row."""
        return DataError(f"row {self.number}: {what}", where=self.file, fix=fix)

    def cell(self, column: str) -> Any:
        """Returns a cell; a blank word of the form is None."""
        if column not in self.cells:
            near = suggest(column, self.cells)
            there = f"columns: {', '.join(self.cells)}"
            raise self.fault(
                f"there is no column '{column}'",
                fix=f"did you mean '{near}'? C{there[1:]}" if near else f"correct source.columns; {there}",
            )
        value = self.cells[column]
        return None if isinstance(value, str) and value in self.form.blank else value

    def text(self, column: str, *, strip: bool = True) -> str:
        """Returns a cell that must hold a text or a whole number."""
        value = self.cell(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self.fault(f"'{column}' must hold a text, found {type(value).__name__}")
        if not value.strip():
            raise self.fault(f"'{column}' is empty")
        return self._whole(value.strip() if strip else value)

    def _whole(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can write half of a surrogate pair, which no file or digest can hold
            raise self.fault(f"{text!a} holds half a character", fix="write the row again as UTF-8") from None
        return text

    def _group(self) -> str:
        if "group" not in self.form.columns:
            return ONE_GROUP
        value = self.text(self.form.columns["group"])
        names = self.form.group_names
        if names and value not in names:
            raise self.fault(
                f"'{self.form.columns['group']}' is '{value}', which source.group_names does not list",
                fix=f"listed: {', '.join(names)}",
            )
        return names.get(value, value)

    def _question(self) -> str:
        rules = self.form.question
        text = self.text(self.form.columns["question"], strip=not self.form.as_released or rules.get("strip", False))
        text = text.replace(rules["drop"], "") if "drop" in rules else text
        return text.capitalize() if rules.get("capitalize", False) else text

    def _options(self) -> tuple[str, ...]:
        named = self.form.columns["options"]
        if isinstance(named, (list, tuple)):
            values = [self.cell(column) for column in named]
            while values and values[-1] in (None, ""):
                values.pop()  # MMBench's way to ask with fewer than four options
        else:
            values = self.cell(named)
            if isinstance(values, str):
                values = self._json_list(named, values)
        if not isinstance(values, list) or len(values) < 2:
            raise self.fault(
                "fewer than two options were found", fix="a cell holds a list of texts (JSON in CSV and TSV)"
            )
        texts = [str(value) for value in values if value is not None]
        if len(texts) < len(values) or not all(text.strip() for text in texts):
            raise self.fault("an option is empty")
        options = tuple(self._whole(text if self.form.as_released else text.strip()) for text in texts)
        if len(set(options)) < len(options) and not self.form.as_released:
            raise self.fault(f"an option is given twice: {', '.join(options)}")
        if len(options) > len(LETTERS):
            raise self.fault(f"{len(options)} options are more than there are letters")
        return options

    def _json_list(self, column: str, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self.fault(f"'{column}' is not a JSON list: {error}") from None

    def _answer(self, options: tuple[str, ...]) -> str:
        form = self.form.answer
        text = self.text(self.form.columns["answer"])
        if form == "text":
            wanted = text.lower().removesuffix(".") if options == YES_NO else text
            if wanted in options:
                return wanted
            raise self.fault(f"the answer '{text}' is none of the options", fix=f"options: {', '.join(options)}")
        if form == "letter":
            place = LETTERS.find(text.upper()) if len(text) == 1 else -1
        else:
            place = int(text) if text.isdecimal() else -1
        if not 0 <= place < len(options):
            last = LETTERS[len(options) - 1] if form == "letter" else str(len(options) - 1)
            first = "A" if form == "letter" else "0"
            raise self.fault(f"the answer '{text}' is no {form} of an option", fix=f"it must be {first} to {last}")
        return options[place]

    def _reference_answers(self) -> tuple[str, ...]:
        column = self.form.columns["answer"]
        values = self.cell(column)
        if self.form.answer == "text" or (self.form.answer == "texts" and isinstance(values, (str, int))):
            return (self.text(column, strip=not self.form.as_released),)
        if isinstance(values, str):
            values = self._json_list(column, values)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.fault(f"'{column}' must hold a list of texts, found {type(values).__name__}")
        # An annotator may have left his answer blank, and is one of those who did not agree. A blank among answers of
        # which any is right would be found in every text.
        said = [value for value in values if value.strip()]
        if not said or (self.form.answer == "texts" and len(said) < len(values)):
            raise self.fault(f"'{column}' holds {'an empty' if said else 'no'} reference answer")
        return tuple(self._whole(value) for value in values)

    def _extra(self, column: str) -> str:
        value = self.cell(column)
        if isinstance(value, list):
            return self._whole(", ".join(map(str, value)))
        if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return self._whole("" if value is None else str(value))
        raise self.fault(f"'{column}' must hold a text or a list of texts, found {type(value).__name__}")


def refuse_duplicates(rows: tuple[Row, ...], where: str) -> None:
    """Raises DataError where two rows have one id."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if row.item_id in first:
            raise DataError(
                f"the id '{row.item_id}' occurs twice, in rows {first[row.item_id]} and {number}",
                where=where,
                fix="make the ids unique, or write key: row in the source to count the rows instead",
            )
        first[row.item_id] = number
