"""What is asked, laid out and cut into packs: each distinct question once, grouped by image. Runs no model.

A position is a token id, or -1 - j for visual row j of the image. What questions share is found by comparing their ids
and never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ovbench._base.errors import ConfigError
from ovbench.harness.understanding.conversation import Tokenized

MAX_POSITIONS = 4096  # of one pack: about 2 GB of keys and values in a 7B model


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question to the model."""

    image_id: str | None  # None: asked without an image
    question: str  # the user's words, without template and image mark
    options: tuple[str, ...] = ()  # continuations whose likelihood is wanted
    first_token: bool = False  # compare options by their first token alone, which then must differ
    max_new_tokens: int  # longest free answer; 0: only the options are wanted

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0 or (self.max_new_tokens == 0 and len(self.options) < 2):
            raise ConfigError(
                f"nothing is asked: max_new_tokens is {self.max_new_tokens} and there are {len(self.options)} options",
                where=f"question '{self.question}'",
                fix="ask for at least one token, or give two options",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the model said to one question."""

    raw: str  # greedy free answer
    ids: tuple[int, ...]  # its tokens, without the one that ends it
    option_scores: tuple[float, ...]  # mean log-likelihood of each option's tokens; empty: not scored
    margin: float  # gap between the two best choices of the closest decision, nats


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A distinct question, ready to be read."""

    request: Request
    members: tuple[int, ...]  # places of the requests that it answers
    prompt: Tokenized
    options: tuple[tuple[int, ...], ...]

    def length(self, num_visual: int, max_length: int) -> int:
        """Returns the number of positions."""
        return min(len(self.prompt.ids) + (num_visual if self.prompt.image_at is not None else 0), max_length)

    def row(self, num_visual: int, max_length: int) -> tuple[int, ...]:
        """Returns the positions."""
        ids, at = self.prompt.ids, self.prompt.image_at
        if at is not None:
            ids = (*ids[:at], *range(-1, -1 - num_visual, -1), *ids[at:])
        return ids[:max_length]

    @property
    def longer(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(Number, ids) of the options of several tokens: those that have to be read to be scored."""
        return tuple((number, ids) for number, ids in enumerate(self.options) if len(ids) > 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Questions about one image."""

    image_id: str | None
    prefix: int  # positions that all of them share, with whatever other groups share; each has at least one more
    asks: tuple[Ask, ...]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What is read together."""

    groups: tuple[Group, ...]
    part_of: int | None = None  # group that this is a part of; its packs follow each other and keep what they share

    @property
    def part(self) -> bool:
        """Whether it is one of several packs of a single group."""
        return self.part_of is not None

    @cached_property
    def asks(self) -> tuple[Ask, ...]:
        """All questions, group after group."""
        return tuple(ask for group in self.groups for ask in group.asks)

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """The distinct images."""
        return tuple(dict.fromkeys(group.image_id for group in self.groups if group.image_id is not None))

    @cached_property
    def members(self) -> frozenset[int]:
        """Places of the requests that it answers."""
        return frozenset(member for ask in self.asks for member in ask.members)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a list of requests is answered."""

    system: int  # positions in front of the image that every question shares
    packs: tuple[Pack, ...]
    num_requests: int

    @property
    def num_asks(self) -> int:
        """Distinct questions: calls of the language model that there would be at batch size 1."""
        return sum(len(pack.asks) for pack in self.packs)

    @property
    def num_images(self) -> int:
        """Distinct images: passes of the encoder."""
        return len({image_id for pack in self.packs for image_id in pack.image_ids})


def shared_positions(prompts: Sequence[Tokenized], num_visual: int) -> int:
    """Returns how many positions at the front all prompts have in common; their images are the same."""
    ends = (min(prompt.ids for prompt in prompts), max(prompt.ids for prompt in prompts))
    # The least and the greatest in dictionary order differ no later than any other two.
    count = next((place for place, pair in enumerate(zip(*ends, strict=False)) if pair[0] != pair[1]), None)
    common = min(len(ends[0]), len(ends[1])) if count is None else count
    places = {prompt.image_at for prompt in prompts}
    if len(places) == 1:
        at = prompts[0].image_at
        return common if at is None or common < at else common + num_visual
    return min(common, *(at for at in places if at is not None))


def plan_in_order(asks: Sequence[Ask], batch_size: int) -> Plan:
    """Returns batches in the order of the requests: nothing is shared."""
    groups = [Group(image_id=ask.request.image_id, prefix=0, asks=(ask,)) for ask in asks]
    packs = tuple(Pack(groups=tuple(groups[start : start + batch_size])) for start in range(0, len(groups), batch_size))
    return Plan(system=0, packs=packs, num_requests=sum(len(ask.members) for ask in asks))


def plan_equal(asks: Sequence[Ask], *, num_visual: int, max_length: int, max_positions: int) -> Plan:
    """Returns batches of questions about one image that have the same length: no row is padded, nothing is shared."""
    packs: list[Pack] = []
    for number, (image_id, found) in enumerate(_by_image(asks)):
        rows: dict[int, list[Ask]] = {}
        for ask in found:
            rows.setdefault(ask.length(num_visual, max_length), []).append(ask)
        for length, same in sorted(rows.items(), reverse=True):
            step = max(1, max_positions // length)
            packs += [
                Pack(
                    groups=(Group(image_id=image_id, prefix=0, asks=tuple(same[start : start + step])),), part_of=number
                )
                for start in range(0, len(same), step)
            ]
    return Plan(system=0, packs=tuple(packs), num_requests=sum(len(ask.members) for ask in asks))


def plan_shared(asks: Sequence[Ask], *, num_visual: int, max_length: int, max_positions: int, one_row: bool) -> Plan:
    """Returns packs of groups, the largest first.

    A question without an image, or alone with its image, shares only what all questions do.

    Args:
        asks: The distinct questions.
        num_visual: Visual rows per image.
        max_length: Positions of the model.
        max_positions: Positions of a pack, padding included; a larger group is split.
        one_row: The questions of a group lie in one row behind their prefix; otherwise each has a row of its own.
    """
    lengths = {id(ask): ask.length(num_visual, max_length) for ask in asks}
    shortest = min(lengths.values()) - 1
    prompts = [ask.prompt for ask in asks]
    places = [prompt.image_at for prompt in prompts if prompt.image_at is not None]
    system = min(shared_positions(prompts, num_visual), shortest, *places)

    groups: list[Group] = []
    for image_id, found in _by_image(asks):
        if image_id is None or len(found) == 1:
            groups += [Group(image_id=image_id, prefix=system, asks=(ask,)) for ask in found]
            continue
        shared = shared_positions([ask.prompt for ask in found], num_visual)
        prefix = min(shared, min(lengths[id(ask)] for ask in found) - 1)
        groups.append(Group(image_id=image_id, prefix=prefix, asks=tuple(found)))

    def area(members: Sequence[Group]) -> int:
        if one_row:
            rows = [_own(group.asks, group.prefix, lengths) + group.prefix for group in members]
        else:
            rows = [size for group in members for ask in group.asks for size in _rows(ask, lengths[id(ask)])]
        return len(rows) * max(rows)

    packs: list[Pack] = []
    waiting: list[Group] = []
    for number, group in enumerate(sorted(groups, key=lambda group: -area([group]))):
        if area([group]) > max_positions and len(group.asks) > 1:
            packs += [Pack(groups=(part,), part_of=number) for part in _split(group, area, max_positions)]
            continue
        if waiting and area([*waiting, group]) > max_positions:
            packs.append(Pack(groups=tuple(waiting)))
            waiting = []
        waiting.append(group)
    if waiting:
        packs.append(Pack(groups=tuple(waiting)))
    return Plan(system=system, packs=tuple(packs), num_requests=sum(len(ask.members) for ask in asks))


def _split(group: Group, area: Callable[[Sequence[Group]], int], max_positions: int) -> list[Group]:
    """Returns a group in parts that fit; a single question that does not fit is a part of its own."""
    parts: list[list[Ask]] = [[]]
    for ask in group.asks:
        tried = Group(image_id=group.image_id, prefix=group.prefix, asks=(*parts[-1], ask))
        if parts[-1] and area([tried]) > max_positions:
            parts.append([])
        parts[-1].append(ask)
    return [Group(image_id=group.image_id, prefix=group.prefix, asks=tuple(part)) for part in parts]


def _rows(ask: Ask, length: int) -> list[int]:
    return [length, *(length + len(ids) - 1 for _, ids in ask.longer)]


def _own(asks: Sequence[Ask], prefix: int, lengths: dict[int, int]) -> int:
    """Returns the positions behind the shared ones."""
    return sum(lengths[id(ask)] - prefix + sum(len(ids) - 1 for _, ids in ask.longer) for ask in asks)


def _by_image(asks: Sequence[Ask]) -> list[tuple[str | None, list[Ask]]]:
    found: dict[str | None, list[Ask]] = {}
    for ask in asks:
        found.setdefault(ask.request.image_id, []).append(ask)
    return list(found.items())
