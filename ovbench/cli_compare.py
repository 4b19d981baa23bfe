"""The command `ovbench compare`: two encoders or runs in, differences with their certainty out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovbench.cli_app import Json, Out, Verbose, default_out, guarded, print_rows, setup

if TYPE_CHECKING:
    from ovbench.harness.comparison.result import Comparison, MetricDifference, TaskComparison
    from ovbench.harness.metrics.base import Interval
    from ovbench.results.report.versus import VersusView

_SHOWN_IDS = 5
_ALL = 1_000_000  # flipped answers: the page chooses among all of them


@guarded
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Run id, run folder, or encoder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise. Differences are A minus B.")],
    suite: Annotated[str | None, typer.Option("--suite", "-s", help="Only this suite.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", "-p", help="Only runs of this protocol.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; several times.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only runs with this limit.")] = None,
    flips: Annotated[int, typer.Option("--flips", min=0, help="List N flipped answers of each task.")] = 0,
    power: Annotated[bool, typer.Option("--power", help="How many images would tell the two apart?")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Groups of all scores, not of the headline alone.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compare common questions though protocol, task or data differ.")
    ] = False,
    draws: Annotated[int, typer.Option("--draws", min=100, help="Swaps that the test tries.")] = 10_000,
    draw_seed: Annotated[int, typer.Option("--draw-seed", help="Of bootstrap and swaps.")] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page with the pictures: FILE.html, or a folder.")
    ] = None,
    out: Out = None,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare two encoders or runs, paired by question: difference, interval, p-value, flipped answers."""
    setup(verbose)
    from ovbench._base.files import to_json
    from ovbench.harness.compare import compare_runs
    from ovbench.harness.comparison.answers import Options
    from ovbench.harness.comparison.runs import Wanted

    found = compare_runs(
        first,
        second,
        out=out,
        wanted=Wanted(suite=suite, protocol=protocol, seeds=tuple(seed or ()), limit=limit),
        options=Options(
            seed=draw_seed, num_draws=draws, everything=everything, power=power, num_flips=_ALL if html else flips
        ),
        force=force,
    )
    if html is not None:
        typer.echo(f"written: {_write_page(found, html, [out or default_out(), *_parents(first, second)])}", err=True)
        found = [_with_flips(comparison, flips) for comparison in found]
    if json_output:
        typer.echo(to_json([comparison.to_dict() for comparison in found]), nl=False)
        return
    for position, comparison in enumerate(found):
        if position:
            typer.echo("")
        _print(comparison)


def _parents(*names: str) -> list[Path]:
    """Returns the folders that hold those of the sides that are paths of run folders."""
    paths = [Path(name).expanduser() for name in names]
    return [path.resolve().parent for path in paths if (path / "record.json").is_file()]


def _write_page(comparisons: list[Comparison], target: Path, roots: list[Path]) -> Path:
    from ovbench.harness.report_images import drawer
    from ovbench.results.report.build import write_report
    from ovbench.results.report.gather import gather
    from ovbench.results.report.versus import build_versus

    page = build_versus([_view(entry) for entry in comparisons], gather(roots), draw=drawer())
    return write_report(page, target, name="comparison.html", where="--html")


def _with_flips(comparison: Comparison, count: int) -> Comparison:
    """Returns a comparison with at most `count` flipped answers of each task, as without a page."""
    from dataclasses import replace

    kept = [
        entry
        for task in comparison.tasks
        for entry in [flip for flip in comparison.flipped if flip.task == task.task][:count]
    ]
    return replace(comparison, flipped=tuple(kept))


def _view(comparison: Comparison) -> VersusView:
    """Returns a comparison in the words of the console."""
    from ovbench.results.report.versus import A_RIGHT, B_RIGHT, Flip, VersusTask, VersusView

    one, two = comparison.first, comparison.second
    pairs: dict[str, tuple[str, str]] = {}
    for (a, b), ids in zip(
        zip(one.seeds, two.seeds, strict=True), zip(one.run_ids, two.run_ids, strict=True), strict=True
    ):
        pairs[str(a) if a == b else f"{a}, {b}"] = ids
    return VersusView(
        about=f"{comparison.suite} · protocol {comparison.protocol} · seed {', '.join(pairs)}",
        first=one.label,
        second=two.label,
        first_ids=one.run_ids,
        second_ids=two.run_ids,
        warnings=comparison.warnings,
        settings=_settings(comparison),
        tasks=[
            VersusTask(
                title=f"{task.task}: {_counts(task)}",
                rows=[
                    {name: "—" if value is None else str(value) for name, value in _row(entry).items()}
                    for entry in task.differences
                ],
                notes=[f"{_name(entry)}: {line}" for entry in task.differences for line in _more(entry)],
            )
            for task in comparison.tasks
        ],
        flips=[
            Flip(
                task=entry.task,
                item_id=entry.item_id,
                group=entry.group,
                outcome=A_RIGHT if entry.right == "first" else B_RIGHT,
                runs=pairs[entry.seed],
            )
            for entry in comparison.flipped
        ],
    )


def _settings(comparison: Comparison) -> list[dict[str, str]]:
    return [
        {"setting": entry.name, "A": entry.first, "B": entry.second, "": "not comparable" if entry.breaks else ""}
        for entry in comparison.settings
    ]


def _print(comparison: Comparison) -> None:
    one, two = comparison.first, comparison.second
    seeds = ", ".join(map(str, one.seeds)) if one.seeds == two.seeds else f"{one.seeds[0]} and {two.seeds[0]}"
    typer.echo(f"A  {one.label}  ({', '.join(one.run_ids)})")
    typer.echo(f"B  {two.label}  ({', '.join(two.run_ids)})")
    typer.echo(f"{comparison.suite} · protocol {comparison.protocol} · seed {seeds} · differences are A minus B")
    for warning in comparison.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo("\nWhat was set differently:")
    print_rows([*_settings(comparison)], False)
    for task in comparison.tasks:
        _print_task(task)
    entries = [entry for task in comparison.tasks for entry in task.differences]
    tests = sum(entry.headline and entry.p is not None for entry in entries)
    typer.echo(
        f"\np Holm: corrected for {tests} headline{'' if tests == 1 else 's'} together, and for the other scores of "
        "each task together. better, worse: A against B where p Holm is below 0.05."
    )
    if comparison.flipped:
        typer.echo("\nFlipped answers:")
        print_rows([_flip(entry) for entry in comparison.flipped], False)


def _flip(entry: Any) -> dict[str, Any]:
    return {
        "task": entry.task,
        "seed": entry.seed,
        "item": entry.item_id,
        "image": entry.image_id,
        "question": entry.question,
        "A said": entry.first,
        "B said": entry.second,
        "right answer": entry.answer,
        "right": "A" if entry.right == "first" else "B",
    }


def _print_task(task: TaskComparison) -> None:
    typer.echo(f"\n{task.task}: {_counts(task)}")
    for items, whose in _left_out(task):
        if items:
            more = f", and {len(items) - _SHOWN_IDS} more" if len(items) > _SHOWN_IDS else ""
            typer.echo(f"  {whose}, left out: {len(items)} ({', '.join(items[:_SHOWN_IDS])}{more})")
    if task.flips is not None:
        flips = task.flips
        typer.echo(
            f"  flipped: {flips.first_only} right in A alone, {flips.second_only} right in B alone; "
            f"{flips.changed} other answers changed"
        )
    print_rows([_row(entry) for entry in task.differences], False)
    for entry in task.differences:
        for line in _more(entry):
            typer.echo(f"  {_name(entry)}: {line}")


def _left_out(task: TaskComparison) -> tuple[tuple[tuple[str, ...], str], ...]:
    return (task.only_first, "only A"), (task.only_second, "only B"), (task.changed, "not the same question")


def _counts(task: TaskComparison) -> str:
    if task.kind in ("generation", "reconstruction"):
        return f"{task.n_common} pictures"
    repeated = f" ({task.n_distinct} different ones)" if task.n_distinct < task.n_common else ""
    return f"{task.n_common} common questions{repeated} about {task.num_images} images"


def _name(entry: MetricDifference) -> str:
    return entry.metric if entry.group is None else f"{entry.metric}[{entry.group}]"


def _shown(entry: MetricDifference, value: float | None, sign: str = "") -> str:
    if value is None:
        return "—"
    from ovbench.results.formats.layout import scale

    # One digit more than in tables: two encoders may be a few hundredths of a percent apart.
    digits = ".2f" if entry.unit in ("fraction", "points") else ".4g"
    return f"{scale(value, entry.unit):{sign}{digits}}"


def _range(entry: MetricDifference, interval: Interval) -> str:
    if interval.low is None:
        return "—"
    return f"[{_shown(entry, interval.low, '+')}, {_shown(entry, interval.high, '+')}]"


def _row(entry: MetricDifference) -> dict[str, Any]:
    return {
        "score": _name(entry) + (" %" if entry.unit == "fraction" else ""),
        "A": _shown(entry, entry.first),
        "B": _shown(entry, entry.second),
        "A − B": _shown(entry, entry.difference, "+"),
        "95% interval": _range(entry, entry.interval),
        "p": _p(entry.p),
        "p Holm": _p(entry.p_holm),
        "n": entry.n,
        "images": entry.num_images,
        "A is": entry.verdict,
    }


def _p(value: float | None) -> str:
    return "—" if value is None else ("<0.0001" if value < 1e-4 else f"{value:.4f}")


def _more(entry: MetricDifference) -> list[str]:
    """Returns what does not fit into a row."""
    lines = [*entry.notes]
    if entry.reason is not None:
        lines.append(f"not tested: {entry.reason}")
    if entry.exact_p is not None and entry.headline:
        lines.append(f"{entry.p_method}; McNemar's exact p {_p(entry.exact_p)}")
    if entry.seeds is not None and entry.headline:  # of the others, --json has it
        lines += _seeds(entry)
    if entry.power is not None and entry.headline:  # of the others, --json has it
        lines.append(_power(entry))
    return lines


def _seeds(entry: MetricDifference) -> list[str]:
    seeds = entry.seeds
    assert seeds is not None, "there are several"
    values = ", ".join(_shown(entry, value, "+") for value in seeds.by_seed)
    within, between = _range(entry, seeds.interval_questions), _range(entry, seeds.interval_seeds)
    return [
        f"A − B by seed {values}; spread over seeds {_shown(entry, seeds.spread)}",
        f"within these runs (other questions, these trainings): {within}",
        f"between seeds (other trainings, these questions): {between}, p {_p(seeds.p_seeds)}",
        "the row above counts both",
    ]


def _power(entry: MetricDifference) -> str:
    power = entry.power
    assert power is not None, "asked for before"
    if not entry.difference:
        return "no number of images finds a difference of 0"
    needs = ", ".join(
        f"{chance} power needs {'more than 10^9' if count is None else count} images"
        for chance, count in power.images.items()
    )
    if power.correlation is None or power.per_image is None:
        return f"to find this difference, {needs} like these"
    about = f"{power.per_image:.3g} questions an image, whose differences correlate by {power.correlation:.2f}"
    return f"to find this difference, {needs} ({about})"
