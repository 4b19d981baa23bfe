"""Runs lmms-eval's evaluator on our questions and pictures; every import of lmms-eval happens when it is called."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ovbench._base.errors import DataError
from ovbench._base.lazy import require
from ovbench.harness.understanding.lmms.answering import Answerer
from ovbench.harness.understanding.lmms.layouts import Layout
from ovbench.tasks.base import TaskData

# Our own draws come from generators of their own; the global ones are not ours to seed.
_NO_SEEDS: Any = {"random_seed": None, "numpy_random_seed": None, "torch_random_seed": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What lmms-eval made of one task."""

    metrics: Mapping[str, float]
    prompts: tuple[str, ...]  # in the order of the questions
    answers: tuple[str, ...]


def ask_lmms_eval(
    answerer: Answerer,
    data: Sequence[TaskData],
    layouts: Mapping[str, Layout],
    *,
    max_new_tokens: Mapping[str, int],
    out: Path,
) -> dict[str, Heard]:
    """Runs lmms-eval once over all tasks; its requests come to the model together.

    Args:
        answerer: The model.
        data: Tasks of ours.
        layouts: By the name of our task, which task of lmms-eval it is.
        max_new_tokens: By the same name, the longest answer to our own prompts.
        out: Folder for the files that lmms-eval's tasks write.

    Raises:
        DataError: Rows lack a column that its code reads, or its code fails on an answer.
        DependencyError: lmms-eval is not installed.
    """
    require("lmms_eval", extra="lmms", purpose="--engine lmms-eval")
    if not data:
        return {}
    with _output_to_stderr(), _pillow_as_it_was():
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager
        from tenacity import RetryError

        from ovbench.harness.understanding.lmms.model import OvbenchLmms
        from ovbench.harness.understanding.lmms.tasks import local_task

        _logs_to_stderr()
        tasks = {
            item.spec.name: local_task(
                f"ovbench_{item.spec.name}",
                layouts[item.spec.name],
                item,
                max_new_tokens=max_new_tokens[item.spec.name],
            )
            for item in data
        }
        try:
            results: Any = simple_evaluate(
                model=OvbenchLmms(answerer=answerer),
                tasks=list(tasks.values()),
                task_manager=TaskManager(include_defaults=False),
                bootstrap_iters=0,
                log_samples=False,
                process_docs_parallel=1,
                **_NO_SEEDS,
                # Some of its tasks write files where these say, and into the working folder without them.
                cli_args=argparse.Namespace(output_path=str(out), process_with_media=False),
            )
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise DataError(
                f"lmms-eval cannot score an answer: {type(cause).__name__}: {cause}",
                where=", ".join(tasks),
                fix="look at the columns of the data: ovbench data verify",
            ) from cause
    heard: dict[str, Heard] = {}
    for name, task in tasks.items():
        found = results["results"][f"ovbench_{name}"]
        instances: list[Any] = sorted(cast(Any, task.instances), key=lambda item: item.doc_id)
        heard[name] = Heard(
            metrics={
                key.removesuffix(",none"): value for key, value in found.items() if isinstance(value, float | int)
            },
            prompts=tuple(item.args[0] for item in instances),
            answers=tuple(item.resps[0] for item in instances),
        )
    return heard


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Keeps what lmms-eval and its tasks print out of our standard output, which holds results alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _pillow_as_it_was() -> Iterator[None]:
    """Undoes a switch that importing lmms-eval sets for the whole process: to read cut-off pictures as grey ones."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _logs_to_stderr() -> None:
    """Moves lmms-eval's log from standard output, where it puts it when it is imported."""
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="lmms-eval: {message}")
