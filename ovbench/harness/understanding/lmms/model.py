"""The model that `lmms-eval --model ovbench` builds: lmms-eval's requests → questions → answers.

Imports lmms-eval when it is imported: only lmms-eval itself and the cross-check do that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from PIL.Image import Image
from tqdm import tqdm

from ovbench._base import launcher
from ovbench._base.errors import ConfigError
from ovbench._base.pictures import to_rgb
from ovbench.encoders.base import check_device_name
from ovbench.harness.feature_shards import image_digest
from ovbench.harness.understanding.lmms.answering import Answerer, Question
from ovbench.harness.understanding.lmms.holder import open_checkpoint, open_run

log = logging.getLogger(__name__)
MAX_NEW_TOKENS = 1024  # where a task says nothing; lmms-eval's `llava` has the same
BATCH_SIZE = 64  # of `--batch_size auto`
_PICTURES_AT_A_TIME = 128  # distinct pictures that one call of the answerer holds
_KEPT_BYTES = 2 << 30  # of decoded pictures between the first look and the answers; the others are decoded twice
_ARGUMENTS = "run, checkpoint, encoder, device, dtype, batch_size"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One request of lmms-eval, read."""

    number: int
    digest: str | None  # of its picture
    text: str
    until: tuple[str, ...]
    max_new_tokens: int


class OvbenchLmms(lmms):
    """A trained LLaVA of ours, as lmms-eval sees it.

    Args:
        run: Folder of a finished run of the understanding suite.
        checkpoint: In its place, a folder of LLaVA weights.
        encoder: Spec string of the encoder that the checkpoint was trained with; None: the checkpoint says it.
        device: None: this process's GPU where there is one, else the CPU.
        dtype: Of a checkpoint; a run has its own.
        batch_size: Questions read together, or `auto`; changes no answer.
        max_batch_size: Taken because lmms-eval passes it; without effect.
        answerer: In place of all these, something that answers already.
    """

    is_simple = True

    def __init__(
        self,
        run: str | Path | None = None,
        checkpoint: str | Path | None = None,
        encoder: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | str | None = None,
        answerer: Answerer | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        del max_batch_size
        if unknown:
            raise ConfigError(
                f"unknown model argument '{next(iter(unknown))}'",
                where="--model_args",
                fix=f"the arguments are: {_ARGUMENTS}",
            )
        if sum(item is not None for item in (run, checkpoint, answerer)) != 1:
            raise ConfigError(
                "the model needs a run or a checkpoint, and not both",
                where="--model_args",
                fix="write run=FOLDER, or checkpoint=FOLDER,encoder=SPEC",
            )
        if checkpoint is None and encoder is not None:
            raise ConfigError(
                "an encoder goes with a checkpoint; a run knows its own",
                where="--model_args",
                fix="write run=FOLDER, or checkpoint=FOLDER,encoder=SPEC",
            )
        name = _device_name(device)
        self._device = torch.device(name)
        size = _batch_size(batch_size)
        # Contract: no attribute is an nn.Module, because `clean` of the base class deletes those after an evaluation.
        if answerer is not None:
            self._answerer = answerer
        elif run is not None:
            self._answerer = open_run(Path(str(run)), device=name, batch_size=size)
        else:
            spec = None if encoder is None else str(encoder)
            self._answerer = open_checkpoint(
                Path(str(checkpoint)), encoder=spec, device=name, dtype=str(dtype), batch_size=size
            )

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> OvbenchLmms:
        """Returns the model that `--model_args`, `--batch_size` and `--device` describe; the first comes first.

        Raises:
            ConfigError: An argument is unknown, missing, or not of the form name=value.
        """
        try:
            given = simple_parse_args_string(arg_string)
        except ValueError as error:
            raise ConfigError(
                f"'{arg_string}' is not a list of name=value", where="--model_args", fix=f"names: {_ARGUMENTS}"
            ) from error
        passed = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**passed, **given})

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval gathers there when it runs in several processes."""
        return self._device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the answers in the order of the requests; everything is read and refused before anything is asked.

        Raises:
            ConfigError: A task shows several pictures, or something that is no picture.
        """
        kept: dict[str, Image] = {}
        sources: dict[str, Instance] = {}  # digest → a request that shows the picture
        read = list(self._read(requests, kept, sources))
        answers = [""] * len(requests)
        batches = list(_in_turns(read))
        for batch in tqdm(batches, desc="ovbench answers", disable=self.rank != 0):
            shown: dict[str, Image] = {}
            for item in batch:
                if item.digest is not None and item.digest not in shown:
                    shown[item.digest] = kept.get(item.digest) or self._pictures(sources[item.digest])[0]
            questions = [
                Question(
                    image=None if item.digest is None else shown[item.digest],
                    text=item.text,
                    max_new_tokens=item.max_new_tokens,
                )
                for item in batch
            ]
            for item, answer in zip(batch, self._answerer(questions), strict=True):
                answers[item.number] = cut(answer, item.until)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuses: lmms-eval turns what this returns into text before it scores it.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{_tasks(requests)} wants likelihoods, which lmms-eval 0.7.3 cannot take from any model: its evaluator "
            "turns each (loss, is_greedy) pair into a string, and scoring then fails with 'too many values to unpack'",
            where="--tasks",
            fix="use tasks that generate text; ovbench ranks options itself: ovbench run --scoring ppl",
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuses: a LLaVA-1.5 has seen one picture at the head of a conversation, and these tasks show more.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{_tasks(requests)} asks in several rounds, with pictures that come later",
            where="--tasks",
            fix="leave it out: this model answers one question about one picture",
        )

    # --- reading requests -------------------------------------------------------------------------------------------

    def _pictures(self, request: Instance) -> list[Any]:
        _, _, doc_to_visual, doc_id, task, split = cast(Any, request.args)
        shown: Any = doc_to_visual
        if callable(doc_to_visual):
            shown = doc_to_visual(cast(Any, self.task_dict)[task][split][doc_id])
        return list(shown or [])

    def _read(
        self, requests: Sequence[Instance], kept: dict[str, Image], sources: dict[str, Instance]
    ) -> Iterator[_Request]:
        refused: dict[str, str] = {}  # task → why
        warned: set[str] = set()
        num_bytes = 0
        for number, request in enumerate(requests):
            context, gen_kwargs, _, doc_id, task, _ = cast(Any, request.args)
            if task in refused:
                continue
            pictures = self._pictures(request)
            if (fault := _fault(pictures)) is not None:
                refused[task] = f"task '{task}' shows {fault} (document {doc_id})"
                continue
            if task not in warned and _wants_sampling(gen_kwargs):
                warned.add(task)
                log.warning("task '%s' asks for sampling or beams: ovbench answers greedily", task)
            digest: str | None = None
            if pictures:
                picture = to_rgb(pictures[0])
                digest = image_digest(np.asarray(picture))
                sources.setdefault(digest, request)
                size = 3 * picture.width * picture.height
                if digest not in kept and num_bytes + size <= _KEPT_BYTES:
                    kept[digest] = picture
                    num_bytes += size
            yield _Request(
                number=number,
                digest=digest,
                text=str(context),
                until=_until(gen_kwargs),
                max_new_tokens=int(gen_kwargs.get("max_new_tokens") or MAX_NEW_TOKENS),
            )
        if refused:
            raise ConfigError(
                "; ".join(refused.values()),
                where="--tasks",
                fix="leave these tasks out: this model reads one picture, or none, per question",
            )


def cut(answer: str, until: Sequence[str]) -> str:
    """Returns the answer up to the first of the marks at which a task wants it to end, stripped."""
    ends = [place for mark in until if mark and (place := answer.find(mark)) >= 0]
    return answer[: min(ends)].strip() if ends else answer.strip()


def _in_turns(requests: Sequence[_Request]) -> Iterator[list[_Request]]:
    """Yields all requests, those of one picture together, so many distinct pictures at a time."""
    groups: dict[str | None, list[_Request]] = {}
    for item in requests:
        groups.setdefault(item.digest, []).append(item)
    if blind := groups.pop(None, []):
        yield blind
    together = list(groups.values())
    for start in range(0, len(together), _PICTURES_AT_A_TIME):
        yield [item for group in together[start : start + _PICTURES_AT_A_TIME] for item in group]


def _fault(pictures: Sequence[Any]) -> str | None:
    """Returns what is shown that a LLaVA-1.5 cannot see; None where all is well."""
    if strange := next((item for item in pictures if not isinstance(item, Image)), None):
        return f"something that is no picture: {type(strange).__name__} {str(strange)[:60]!r} (a video or a sound?)"
    return f"{len(pictures)} pictures with one question" if len(pictures) > 1 else None


def _until(gen_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    given = gen_kwargs.get("until")
    return (given,) if isinstance(given, str) else tuple(given or ())


def _wants_sampling(gen_kwargs: Mapping[str, Any]) -> bool:
    beams = int(gen_kwargs.get("num_beams") or 1)
    return bool(gen_kwargs.get("do_sample")) or float(gen_kwargs.get("temperature") or 0.0) > 0.0 or beams > 1


def _device_name(asked: str | None) -> str:
    """Returns where this process computes; under a launcher each has the GPU of its number."""
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
        log.info("no device was asked for: using %s", asked)
    check_device_name(asked)
    return f"cuda:{launcher.local_rank()}" if asked == "cuda" else asked


def _batch_size(given: int | str) -> int:
    text = str(given)
    if text.split(":")[0] == "auto":
        return BATCH_SIZE
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"the batch size must be 1 or more, or auto, got '{given}'", where="--batch_size")
    if int(text) == 1:
        log.warning("questions are read one at a time; --batch_size auto is faster and gives the same answers")
    return int(text)


def _tasks(requests: Sequence[Instance]) -> str:
    names = list(dict.fromkeys(request.task_name for request in requests))
    return f"task {', '.join(repr(name) for name in names)}"
