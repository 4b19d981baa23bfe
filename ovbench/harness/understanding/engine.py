"""Asks a LLaVA many questions and does nothing twice, with the answers that each question gets alone.

Each distinct image is encoded once and each distinct question asked once; what questions share is read once. Decisions
within rounding error are made again on the reference path: one question at a time, nothing shared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.answer_requests import (
    MAX_POSITIONS,
    Ask,
    Pack,
    Plan,
    Reply,
    Request,
    plan_equal,
    plan_in_order,
    plan_shared,
)
from ovbench.harness.understanding.close_calls import check_close_call, close_call_of, margin_of, rounded
from ovbench.harness.understanding.conversation import Tokenized
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.decoding import Answers, greedy, option_scores, prefill, text_of
from ovbench.harness.understanding.equal import answer_equal
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.packed import answer_packed, model_dtype
from ovbench.harness.understanding.padded import answer_padded
from ovbench.harness.understanding.prefix_cache import Kept, obstacle, read_prefixes
from ovbench.harness.understanding.sharing_probe import sharing_fault
from ovbench.harness.understanding.wording import closing_ids, option_ids, prompt_of

log = logging.getLogger(__name__)

Packing = Literal["auto", "packed", "padded", "batched"]
BATCH_SIZE = 64  # of `batched`


@dataclass(kw_only=True, slots=True)
class Counts:
    """What was done since the engine was made."""

    requests: int = 0  # answered
    asked: int = 0  # distinct questions read: the calls that a language model would get at batch size 1
    images: int = 0  # passes of the encoder
    positions: int = 0  # read before the first new token, padding not counted
    steps: int = 0  # forward passes that write one more token per question
    asked_again: int = 0  # close calls


class AnswerEngine:
    """Answers requests.

    Args:
        model: In evaluation mode, of any precision.
        tokens: Image ids → visual tokens.
        packing: `packed`: a row per image; `padded`: a row per question; `batched`: whole prompts in the order of the
            requests, nothing shared; `auto`: `packed`. A language model in which nothing can be shared is read in rows
            of equal length, whatever is asked for, and the reason is logged.
        reference: One request at a time, nothing shared and nothing left out.
        close_call: Nats; a decision closer than this is made again as in `reference`. None: by precision. 0: never.
        score_options: Whether options are scored.
        trust_first_token: Take a first token that is a whole short answer (`Yes`, `B`) for the answer, without looking
            whether the end follows. Not exact.
        max_positions: Of a pack, padding included; changes no answer.
        batch_size: Of `batched`; changes no answer.

    Raises:
        ConfigError: A value is out of range, or the model is in training mode.
    """

    def __init__(
        self,
        model: Llava,
        tokens: TokenSource,
        *,
        packing: Packing = "auto",
        reference: bool = False,
        close_call: float | None = None,
        score_options: bool = True,
        trust_first_token: bool = False,
        max_positions: int = MAX_POSITIONS,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if packing not in get_args(Packing):
            raise ConfigError(
                f"unknown packing '{packing}'", where="packing", fix=f"choose one of {', '.join(get_args(Packing))}"
            )
        if max_positions < 1 or batch_size < 1:
            raise ConfigError(
                f"max_positions and batch_size must be 1 or more, got {max_positions} and {batch_size}",
                where="answering",
            )
        if model.training:
            raise ConfigError("the model is in training mode", where="answering", fix="call model.eval() first")
        self.counts = Counts()
        self._model, self._tokens = model, tokens
        self._reference, self._score_options = reference, score_options
        dtype = model_dtype(model)
        self._close_call = close_call_of(dtype) if close_call is None else check_close_call(close_call)
        self._max_positions, self._batch_size = max_positions, 1 if reference else batch_size
        wanted = "packed" if packing == "auto" else packing
        self._obstacle = obstacle(model)
        if self._obstacle is None and wanted != "batched" and not reference:
            self._obstacle = sharing_fault(model, wanted)
        self.packing = wanted if self._obstacle is None else "equal"
        if self._obstacle is not None:
            log.warning("questions share nothing and are read in rows of equal length: %s", self._obstacle)
        self._ends = model.end_ids
        self._closing = closing_ids(model) if trust_first_token else frozenset[int]()
        self._worded: dict[tuple[str, bool], tuple[str, Tokenized]] = {}
        self._seen: dict[str, torch.Tensor] = {}  # visual tokens of the images in hand
        self._ahead: str | None = None  # an image that was encoded before its turn
        self._num_visual: int | None = None
        self._system: tuple[tuple[int, ...], Kept] | None = None
        self._prefix: tuple[int, Kept] | None = None  # of a group that takes several packs

    def ask(
        self,
        requests: Sequence[Request],
        *,
        on_group: Callable[[Mapping[int, Reply]], None] | None = None,
    ) -> list[Reply]:
        """Returns a reply per request.

        Args:
            requests: What is asked.
            on_group: Told the replies of each pack as soon as they are there: place of the request → reply.

        Raises:
            DataError: An option does not continue its question in this tokenizer.
        """
        found: dict[int, Reply] = {}
        for replies in self.stream(requests):
            found |= replies
            if on_group is not None:
                on_group(replies)
        return [found[place] for place in range(len(requests))]

    def stream(self, requests: Sequence[Request], *, done: Set[int] = frozenset()) -> Iterator[dict[int, Reply]]:
        """Yields the replies of one pack after the other: place of the request → reply.

        Args:
            requests: What is asked; packs are cut by all of them, so that going on later computes the same.
            done: Places of requests that are answered; a pack of such alone is left out.
        """
        if done >= set(range(len(requests))):
            return
        plan = self.plan(requests)
        self._prefix = None
        for pack in plan.packs:
            if pack.members <= done:
                continue
            with torch.inference_mode():
                yield self._answer(plan, pack)
        again, asked = self.counts.asked_again, self.counts.asked
        if again:
            log.info("%d of %d questions were close calls and were asked again alone", again, asked)

    def plan(self, requests: Sequence[Request]) -> Plan:
        """Returns how requests will be answered; encodes an image where it is not known yet how many rows one has."""
        if not requests:
            return Plan(system=0, packs=(), num_requests=0)
        in_order = self._reference or self.packing == "batched"
        asks = self._asks(requests, once=not in_order)
        if in_order:
            return plan_in_order(asks, self._batch_size)
        num_visual, max_length = self._visual_rows(asks), self._model.max_length
        cut = sum(ask.length(num_visual, max_length + 1) > max_length for ask in asks)
        if cut:
            log.warning("%d questions are longer than %d positions and lose their end", cut, max_length)
        if self.packing == "equal":
            return plan_equal(asks, num_visual=num_visual, max_length=max_length, max_positions=self._max_positions)
        return plan_shared(
            asks,
            num_visual=num_visual,
            max_length=max_length,
            max_positions=self._max_positions,
            one_row=self.packing == "packed",
        )

    def _asks(self, requests: Sequence[Request], *, once: bool) -> list[Ask]:
        places: dict[object, list[int]] = {}
        asked: dict[object, Request] = {}
        for place, request in enumerate(requests):
            wanted = request if self._score_options else replace(request, options=())
            key = wanted if once else place
            places.setdefault(key, []).append(place)
            asked[key] = wanted
        found: list[Ask] = []
        for key, members in places.items():
            request = asked[key]
            text, prompt = self._wording(request)
            where = f"question '{' '.join(request.question.split())[:80]}'"
            options = option_ids(self._model, text, prompt, request.options, where=where)
            if request.first_token:
                options = tuple(ids[:1] for ids in options)
                if len(set(options)) < len(options):
                    raise DataError(
                        f"two of the options {', '.join(request.options)} begin with the same token",
                        where=where,
                        fix="score whole options",
                    )
            found.append(Ask(request=request, members=tuple(members), prompt=prompt, options=options))
        return found

    def _wording(self, request: Request) -> tuple[str, Tokenized]:
        key = (request.question, request.image_id is not None)
        if key not in self._worded:
            self._worded[key] = prompt_of(self._model, request.question, has_image=key[1])
        return self._worded[key]

    def _visual_rows(self, asks: Sequence[Ask]) -> int:
        if self._num_visual is None:
            first = next((ask.request.image_id for ask in asks if ask.request.image_id is not None), None)
            if first is None:
                return 0
            self._encode([first])
            self._ahead = first
        assert self._num_visual is not None
        return self._num_visual

    def _encode(self, image_ids: Sequence[str]) -> None:
        """Encodes images and keeps their tokens in hand."""
        found = self._tokens(list(image_ids))
        self.counts.images += len(image_ids)
        if self._num_visual is not None and found.shape[1] != self._num_visual:
            raise DataError(
                f"an image has {found.shape[1]} visual tokens and another {self._num_visual}",
                where=f"image '{image_ids[0]}'",
                fix="use features of one length",
            )
        self._num_visual = found.shape[1]
        weight = next(self._model.projector.parameters(), None)
        found = found.to(torch.float32 if weight is None else weight.dtype)
        self._seen |= dict(zip(image_ids, found, strict=True))

    def _visual(self, pack: Pack) -> torch.Tensor | None:
        """Returns the visual tokens of a pack's images; those of the pack before are forgotten."""
        if not pack.image_ids:
            return None
        missing = [image_id for image_id in pack.image_ids if image_id not in self._seen]
        if missing:
            self._encode(missing)
        return torch.stack([self._seen[image_id] for image_id in pack.image_ids])

    def _answer(self, plan: Plan, pack: Pack) -> dict[int, Reply]:
        visual = self._visual(pack)
        heard = self._read(plan, pack, visual)
        alone = len(pack.asks) == 1 and plan.system == 0 and pack.groups[0].prefix == 0
        for place, ask in enumerate(pack.asks):
            if not alone and heard[place].margin < self._close_call:
                self.counts.asked_again += 1
                number = 0 if ask.request.image_id is None else pack.image_ids.index(ask.request.image_id)
                own = None if visual is None or ask.request.image_id is None else visual[number][None]
                heard[place] = self._read_whole([ask], own)[0]
        if self._ahead in pack.image_ids:
            self._ahead = None
        wanted = {self._ahead, *(pack.image_ids if pack.part else ())}
        self._seen = {image_id: rows for image_id, rows in self._seen.items() if image_id in wanted}
        self.counts.asked += len(pack.asks)
        self.counts.requests += len(pack.members)
        return {member: reply for ask, reply in zip(pack.asks, heard, strict=True) for member in ask.members}

    def _read(self, plan: Plan, pack: Pack, visual: torch.Tensor | None) -> list[Reply]:
        if self._reference or self.packing in ("batched", "equal"):
            return self._read_whole(pack.asks, visual)
        rows = {id(ask): ask.row(self._num_visual or 0, self._model.max_length) for ask in pack.asks}
        image_of = [None if group.image_id is None else pack.image_ids.index(group.image_id) for group in pack.groups]
        system = self._read_system(plan, rows[id(pack.asks[0])])
        shared = [rows[id(group.asks[0])][plan.system : group.prefix] for group in pack.groups]
        own = [[rows[id(ask)][group.prefix :] for ask in group.asks] for group in pack.groups]
        answers = self._answers(pack.asks)
        self.counts.positions += sum(len(row) for rest in own for row in rest)
        if self.packing == "packed" and not pack.part:
            self.counts.positions += sum(map(len, shared))
            groups = [group.asks for group in pack.groups]
            scores = answer_packed(self._model, groups, system, shared, own, visual, image_of, answers)
            return self._replies(answers, scores)
        prefixes = self._read_prefixes(pack, system, shared, visual, image_of)
        if self.packing == "packed":
            scores = answer_packed(self._model, [pack.asks], prefixes, [()], own, visual, image_of, answers)
        else:
            flat = [row for rest in own for row in rest]
            each = [image for image, group in zip(image_of, pack.groups, strict=True) for _ in group.asks]
            scores = answer_padded(self._model, pack, prefixes, flat, visual, each, answers)
        return self._replies(answers, scores)

    def _read_system(self, plan: Plan, row: Sequence[int]) -> Kept | None:
        """Returns the keys and values of what every question begins with; read once."""
        ids = tuple(row[: plan.system])
        if not ids:
            return None
        if self._system is None or self._system[0] != ids:
            self.counts.positions += len(ids)
            self._system = (ids, read_prefixes(self._model, None, [ids], None, [None]))
        return self._system[1]

    def _read_prefixes(
        self,
        pack: Pack,
        system: Kept | None,
        shared: Sequence[Sequence[int]],
        visual: torch.Tensor | None,
        image_of: Sequence[int | None],
    ) -> Kept:
        """Returns the keys and values of what each group shares; kept while a group goes on in the next pack."""
        if pack.part_of is not None and self._prefix is not None and self._prefix[0] == pack.part_of:
            return self._prefix[1]
        self.counts.positions += sum(map(len, shared))
        found = read_prefixes(self._model, system, shared, visual, image_of)
        self._prefix = None if pack.part_of is None else (pack.part_of, found)
        return found

    def _read_whole(self, asks: Sequence[Ask], visual: torch.Tensor | None) -> list[Reply]:
        """Answers with nothing shared; the reference path where there is one question."""
        num_visual = self._num_visual or 0
        self.counts.positions += sum(ask.length(num_visual, self._model.max_length) for ask in asks)
        answers = self._answers(asks)
        image_ids = list(dict.fromkeys(ask.request.image_id for ask in asks if ask.request.image_id is not None))
        image_of = [None if ask.request.image_id is None else image_ids.index(ask.request.image_id) for ask in asks]
        if self._obstacle is not None:
            rows = [ask.row(num_visual, self._model.max_length) for ask in asks]
            return self._replies(answers, answer_equal(self._model, asks, rows, visual, image_of, answers))
        each = [place for place in image_of if place is not None]
        shown = visual[torch.tensor(each)] if visual is not None and each else None
        state = prefill(self._model, [ask.prompt for ask in asks], shown)
        scores = option_scores(self._model, state, [ask.options for ask in asks], shown)
        greedy(self._model, state, answers)
        return self._replies(answers, scores)

    def _answers(self, asks: Sequence[Ask]) -> Answers:
        limits = [ask.request.max_new_tokens for ask in asks]
        return Answers(limits, ends=self._ends, closing=self._closing)

    def _replies(self, answers: Answers, scores: Sequence[Sequence[float]]) -> list[Reply]:
        self.counts.steps += answers.num_steps
        return [
            Reply(
                raw=text_of(self._model, ids),
                ids=tuple(ids),
                option_scores=rounded(values),
                margin=margin_of(gap, values),
            )
            for ids, gap, values in zip(answers.ids, answers.gaps, scores, strict=True)
        ]
