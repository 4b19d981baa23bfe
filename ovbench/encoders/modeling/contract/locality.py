"""Raster order and token locality: a change of one patch must move most the token at that patch's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ovbench._base.errors import OvbenchError
from ovbench.encoders.base import EncoderInfo, Tap
from ovbench.encoders.modeling.contract.subject import Failure, Skip, Subject, offers_llm_tokens

NUM_PLACES = 12
NUM_IMAGES = 3
# Share of places whose own token must move most where other tokens may move too (attention, a VAE). On the mini
# encoders, trained and untrained, at llm_tap, h[L-1] and latent_tap, every place agrees, and its token moves at least
# 1.4 times as far as any other (behind a VAE; 2.5 times without); a transposed grid keeps the places on the diagonal,
# at most 2 of 12, and a shifted one none.
AGREEMENT = 0.6
# Convolutions (a VAE in front, or a network without blocks) spread a change over neighbours, and the padding of their
# strides may move its peak by a cell. There the centre of the movement decides: over the places it must go with the
# patch's own row and column. Correlations seen: 0.96 to 1.00, and with the other axis below 0.15, on trained and
# untrained VAEs of the mini and the FLUX kind and on EfficientNet, whose own cell peaks at 12 % of places. A grid that
# is shifted by a few tokens wraps at its edges, which breaks the correlation until it is shifted back.
CENTRES, LEAST_SIDE, SHIFTS = 0.9, 3, (1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
DISORDER = 0.25  # below it no reading of the grid is credible; between the two the check cannot decide


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Which token moved most for each changed patch."""

    grid: tuple[int, int]
    places: list[tuple[int, int]]  # (row, column) of the changed patch
    moved: list[int | None]  # index of the token that moved most; None: none moved
    margins: list[float] = field(default_factory=list)  # movement of the patch's own token over the largest other
    maps: list[Tensor] = field(default_factory=list)  # [N] for each place: how far each token moved

    @property
    def own(self) -> float:
        """Share of places whose own token moved most."""
        return self.share(lambda row, column: row * self.grid[1] + column)

    def share(self, rule: Callable[[int, int], int]) -> float:
        """Returns the share of places whose token moved where `rule(row, column)` says.

        Places that the rule takes out of the grid do not count; where they are most of all, nothing can be said: 0.
        """
        expected = [rule(row, column) for row, column in self.places]
        inside = [(e, m) for e, m in zip(expected, self.moved, strict=True) if 0 <= e < self.grid[0] * self.grid[1]]
        return sum(e == m for e, m in inside) / len(inside) if 2 * len(inside) > len(expected) else 0.0

    def centres_follow(self, *, transposed: bool = False, shift: int = 0) -> tuple[float, float]:
        """Returns how rows and columns of the centres correlate with those of the places (or with each other's).

        Args:
            transposed: Compare rows with columns.
            shift: Move all tokens back by so many places first.
        """
        found = [_centre(movement.roll(-shift), self.grid) for movement in self.maps]
        places, centres = (torch.tensor(pairs, dtype=torch.float64).T for pairs in (self.places, found))
        matrix = torch.corrcoef(torch.cat([places, centres])).nan_to_num()
        return (float(matrix[0, 3]), float(matrix[1, 2])) if transposed else (float(matrix[0, 2]), float(matrix[1, 3]))


def choose_places(grid: tuple[int, int], seed: int, count: int = NUM_PLACES) -> list[tuple[int, int]]:
    """Returns asymmetric places: the corners, neighbours of the first and last, and seeded ones off the diagonal."""
    rows, columns = grid
    wanted = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1), (0, 1), (1, 0), (rows - 1, columns - 2)]
    places = list(dict.fromkeys((r, c) for r, c in wanted if 0 <= r < rows and 0 <= c < columns))
    generator = torch.Generator().manual_seed(seed)
    for index in torch.randperm(rows * columns, generator=generator).tolist():
        place = divmod(index, columns)
        if len(places) >= count:
            break
        if place not in places and (place[0] != place[1] or min(grid) == 1):
            places.append(place)
    return places


def _shifted(shift: int) -> str:
    one = abs(shift) == 1
    if shift > 0:
        kept = "one prefix token (class or register) is" if one else f"{shift} prefix tokens (class or register) are"
        return f"tokens are shifted by {shift}: {kept} kept in the grid"
    return f"tokens are shifted by {shift}: the first {'patch is' if one else f'{-shift} patches are'} dropped"


def explain(movement: Movement) -> str:
    """Returns the reading of the grid that fits what was seen, as the fault that causes it; empty where none fits."""
    rows, columns = movement.grid
    shifts = Counter(
        index - (row * columns + column)
        for (row, column), index in zip(movement.places, movement.moved, strict=True)
        if index is not None
    )
    readings: dict[str, float] = {}
    for shift, _ in shifts.most_common(2):
        if shift == 0:
            continue
        readings[_shifted(shift)] = movement.share(lambda row, column, shift=shift: row * columns + column + shift)
    for text, rule in {
        "the token that moves is at the transposed place: rows and columns of the grid are swapped": (
            lambda row, column: column * rows + row
        ),
        "the rows of the grid are in reverse order": lambda row, column: (rows - 1 - row) * columns + column,
        "the columns of the grid are in reverse order": lambda row, column: row * columns + columns - 1 - column,
        "the grid is turned by 180 degrees": lambda row, column: rows * columns - 1 - (row * columns + column),
    }.items():
        readings[text] = movement.share(rule)
    best = max(readings, key=lambda text: readings[text])
    return best if readings[best] >= AGREEMENT and readings[best] > movement.own else ""


def measure(subject: Subject, tokens: Callable[[Tensor], Tensor]) -> Movement:
    """Changes patches one by one and returns which token moved most, relative to the token's own size."""
    x, patch = subject.images[:NUM_IMAGES], subject.info.patch_px
    places = choose_places(subject.info.grid, subject.seed)
    base = tokens(x).float()
    scale = base.norm(dim=-1).mean(dim=0).clamp_min(1e-6)  # [N]
    moved: list[int | None] = []
    margins: list[float] = []
    maps: list[Tensor] = []
    for row, column in places:
        changed = x.clone()
        area = changed[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        area.copy_((area < 0.5).float())  # far from what was there, in every pixel
        movement = (tokens(changed).float() - base).norm(dim=-1).mean(dim=0) / scale  # [N]
        moved.append(int(movement.argmax()) if float(movement.max()) > 0.0 else None)
        maps.append(movement)
        index = row * subject.info.grid[1] + column
        others = torch.cat([movement[:index], movement[index + 1 :]])
        largest = float(others.max()) if len(others) else 0.0
        margins.append(float(movement[index]) / largest if largest else float("inf"))
    return Movement(grid=subject.info.grid, places=places, moved=moved, margins=margins, maps=maps)


def _centre(movement: Tensor, grid: tuple[int, int]) -> tuple[float, float]:
    """Returns the (row, column) around which tokens moved further than most did."""
    weight = (movement - movement.median()).clamp_min(0.0).double().square().reshape(grid)
    total = weight.sum().clamp_min(1e-30)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    return float((weight.sum(dim=1) * rows).sum() / total), float((weight.sum(dim=0) * columns).sum() / total)


def _judge(movement: Movement, info: EncoderInfo, *, strict: bool = False) -> str:
    count = len(movement.places)
    hits = round(movement.own * count)
    seen = f"at {hits} of {count} places the changed patch's own token moves most"
    needed = 1.0 if strict else AGREEMENT
    if movement.own >= needed:
        least = min(movement.margins)
        return f"{seen}, " + (f"at least {least:.1f} times as far as any other" if least < 1e6 else "no other moves")
    if info.depth == 0 or info.num_params_frontend:
        if min(info.grid) < LEAST_SIDE:
            rows, columns = info.grid
            raise Skip(f"convolutions cannot be judged on {rows} x {columns} tokens: each of them sees every patch")
        if found := _judge_centres(movement):
            return f"{found} ({seen})"
        raise Skip(f"not conclusive: {seen}, and movements centre on no order of the grid: convolutions mix too widely")
    still = [place for place, index in zip(movement.places, movement.moved, strict=True) if index is None]
    missing = f"; a change of patch {still[0]} moves no token" if still else ""
    if likely := explain(movement):
        raise Failure(f"{likely} ({seen}{missing})")
    if strict or movement.own < DISORDER:
        raise Failure(f"tokens are not in raster order: {seen}, needed are {needed:.0%}{missing}")
    raise Skip(f"not conclusive: {seen}, needed are {needed:.0%}, and no other order of the grid fits better")


def _judge_centres(movement: Movement) -> str:
    """Returns what speaks for raster order; empty where the centres do not decide.

    Raises:
        Failure: They follow another order of the grid.
    """
    rows, columns = movement.centres_follow()
    if min(rows, columns) >= CENTRES:
        return f"movements centre on the changed patch: correlation {rows:.2f} along rows, {columns:.2f} along columns"
    if min(movement.centres_follow(transposed=True)) >= CENTRES:
        raise Failure("movements centre on the transposed place: rows and columns of the grid are swapped")
    if min(abs(rows), abs(columns)) >= CENTRES:
        axis = "rows" if columns > 0 else "columns" if rows > 0 else "rows and the columns"
        raise Failure(f"movements centre on the mirrored place: the {axis} of the grid are in reverse order")
    for shift in SHIFTS:
        if min(movement.centres_follow(shift=shift)) >= CENTRES:
            raise Failure(_shifted(shift))
    return ""


def check_locality(subject: Subject) -> str:
    """At h[0] every patch moves its own token most: nothing has mixed tokens yet, but for convolutions and a VAE."""
    info = subject.info
    tap = Tap(layer=0) if info.depth else Tap()
    try:
        subject.tokens(subject.images[:1], tap)
    except OvbenchError as error:
        raise Skip(f"the encoder refuses the tap at layer 0: {error.what}") from error
    unmixed = info.depth > 0 and info.num_params_frontend == 0
    return _judge(measure(subject, lambda x: subject.tokens(x, tap)), info, strict=unmixed)


def check_locality_llm(subject: Subject) -> str:
    """What a language model reads is in raster order."""
    if not offers_llm_tokens(subject):
        raise Skip("the encoder has no blocks and is not offered to a language model")
    extra = subject.info.num_prefix if subject.info.llm_tap.prefix else 0
    moved = measure(subject, lambda x: subject.encoder.llm_tokens(x)[:, extra:].detach().cpu())
    return _judge(moved, subject.info)


def check_locality_latents(subject: Subject) -> str:
    """What a generator reads is in raster order: rows are rows and columns are columns."""
    moved = measure(subject, lambda x: subject.encoder.latents(x).detach().cpu().flatten(2).transpose(1, 2))
    return _judge(moved, subject.info)
