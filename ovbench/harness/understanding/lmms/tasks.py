"""Our questions and pictures as task objects of lmms-eval: its own code, rows and pictures from us, no file and no hub.

Imports lmms-eval when it is imported: only the cross-check does that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmms_eval.tasks
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config

from ovbench.harness.understanding.lmms.layouts import Doc, Layout
from ovbench.tasks.base import TaskData

PROMPT, IMAGE = "ovbench_prompt", "image"


class Rows(Sequence[Doc]):
    """Rows of a table as lmms-eval reads them; a picture is made when its row is read.

    Args:
        docs: Every column but the picture.
        picture: Row number → what the column `image` holds; None: no such column.
    """

    def __init__(self, docs: Sequence[Doc], picture: Callable[[int], Any] | None) -> None:
        self._docs, self._picture = docs, picture

    @property
    def features(self) -> dict[str, None]:
        """The names of the columns; lmms-eval asks for nothing else of them."""
        names = dict.fromkeys(self._docs[0])
        return names if self._picture is None else {**names, IMAGE: None}

    def __len__(self) -> int:
        return len(self._docs)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self._docs))[index]  # raises IndexError, and counts from the end where negative
        doc = copy.deepcopy(self._docs[number])  # Trap: some scorers of lmms-eval change the row that they are given.
        return doc if self._picture is None else {**doc, IMAGE: self._picture(number)}

    def __iter__(self) -> Iterator[Doc]:
        return (self[number] for number in range(len(self)))


class LocalTask(ConfigurableTask):
    """A task of lmms-eval whose table is given."""

    def __init__(self, config: Mapping[str, Any], rows: Rows, rows_without_pictures: Rows) -> None:
        self._rows = {config["test_split"]: rows}
        self._rows_without_pictures = {config["test_split"]: rows_without_pictures}
        super().__init__(config=dict(config))

    def download(self, dataset_kwargs: Any = None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Takes the given rows; `process_docs` of the configuration, which may load from the hub, is not called."""
        del dataset_kwargs
        self.dataset: Any = self._rows
        self.dataset_no_image: Any = self._rows_without_pictures


def local_task(name: str, layout: Layout, data: TaskData, *, max_new_tokens: int) -> LocalTask:
    """Returns a task of lmms-eval on the questions and pictures of a task of ours.

    Args:
        name: What lmms-eval calls it; unique among those that run together.
        layout: Whose code it is.
        data: Questions and pictures.
        max_new_tokens: Longest answer to our own prompt; tasks of lmms-eval bring their own.

    Raises:
        DataError: A column that the task reads is not in the data.
    """
    from PIL import Image

    config = _config(layout)
    config["task"] = name
    wanted = {pair.theirs for pair in layout.pairs}
    config["metric_list"] = [item for item in config["metric_list"] if item["metric"] in wanted]
    docs = [layout.doc(sample) for sample in data.samples]
    if layout.own_prompt:
        docs = [{**doc, PROMPT: sample.prompt} for doc, sample in zip(docs, data.samples, strict=True)]
        config["doc_to_text"] = _own_prompt
        config["generation_kwargs"] = {"until": [], "max_new_tokens": max_new_tokens, "do_sample": False}
    config.setdefault("doc_to_visual", _own_picture)

    def picture(number: int) -> Any:
        image = Image.fromarray(data.image(data.samples[number].image_id))
        return [image] if layout.listed else image

    return LocalTask(config, Rows(docs, picture), Rows(docs, None))


def _config(layout: Layout) -> dict[str, Any]:
    """Returns the configuration of a task, each of its functions in a module of its own, loaded now.

    Trap: OCRBench's module adds up its counts for as long as it lives; loading it anew begins at zero.
    """
    if not layout.yaml:
        assert layout.config is not None
        return copy.deepcopy(dict(layout.config))
    folder = Path(lmms_eval.tasks.__file__).parent
    config: dict[str, Any] = load_yaml_config(str(folder / layout.yaml), mode="full")
    return {key: value for key, value in config.items() if not key.startswith("dataset_")}


def _own_prompt(doc: Doc, kwargs: Any = None) -> str:
    del kwargs
    return doc[PROMPT]


def _own_picture(doc: Doc) -> list[Any]:
    return [doc[IMAGE]]
