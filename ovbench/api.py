"""The Python interface: the commands' words as functions. Everything heavy is imported when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.paths import runs_dir

if TYPE_CHECKING:
    import pandas

    from ovbench.harness.comparison.result import Comparison
    from ovbench.harness.generation.options_config import GenerationOptions
    from ovbench.harness.metrics.fid_audit import AuditRequest
    from ovbench.harness.metrics.fid_report import FidReport
    from ovbench.harness.rescore import Rescored
    from ovbench.results.record import RunRecord


def run(
    encoder: str,
    suite: str = "understanding",
    protocol: str = "mini",
    *,
    tasks: Sequence[str] | str | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 64,
    out: Path | str | None = None,
) -> RunRecord:
    """Judges one frozen encoder on a suite, in this process; what is in the cache is not computed again.

    Args:
        encoder: Spec string, e.g. `ovis3` or `clip/mini`.
        suite: Suite of tasks.
        protocol: Recipe.
        tasks: Only this task or these, by name or path; None: the whole suite.
        limit: Only so many questions per task.
        seed: Of projector and data order; the shuffled control shows the same pictures under every seed.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: Of the encoder: `float32`, `bfloat16` or `float16`.
        batch_size: Questions read together; changes no answer.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.

    Returns:
        The record, which is also stored under `out`.

    Raises:
        OvbenchError: Anything that the user can mend; its text says what, where and how.
    """
    from ovbench._base.errors import ConfigError
    from ovbench.harness.run import plan_runs, run_all

    if not isinstance(encoder, str):
        raise ConfigError(
            f"run takes one encoder, got {encoder!r}",
            where="encoder",
            fix="call it once per encoder; the cache is shared",
        )
    if suite == "all":
        raise ConfigError(
            "suite 'all' leaves a record per suite, and run returns one", where="suite", fix="call it once per suite"
        )
    plan = plan_runs(
        encoders=[encoder],
        suite=suite,
        protocol=protocol,
        tasks=[tasks] if isinstance(tasks, str) else tasks,
        limit=limit,
        seeds=(seed,),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        out=Path(out) if out is not None else runs_dir(),
    )
    (record,) = run_all(plan, in_process=True)
    return record


def gen_fid(
    encoder: str,
    protocol: str = "mini",
    *,
    options: GenerationOptions | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    out: Path | str | None = None,
) -> tuple[RunRecord, ...]:
    """Judges one frozen encoder for generation, in this process; what is in the cache is not computed again.

    Args:
        encoder: Spec string, e.g. `ovis3` or `clip/mini`.
        protocol: Recipe.
        options: Number of samples, guidance, given weights, where ImageNet is …: the options of `ovbench gen-fid`
            (`ovbench.harness.generation.options_config.GenerationOptions`); None: the protocol's.
        seed: Of both trainings and of the samples.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: Of the encoder: `float32`, `bfloat16` or `float16`.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.

    Returns:
        The records, which are also stored under `out`: of the suite `reconstruction`, where pictures are at hand, and
        of `generation`.

    Raises:
        OvbenchError: Anything that the user can mend; its text says what, where and how.
    """
    from ovbench.harness.run import plan_runs, run_all

    plan = plan_runs(
        encoders=[encoder],
        suite="generation",
        protocol=protocol,
        tasks=None,
        limit=None,
        seeds=(seed,),
        device=device,
        dtype=dtype,
        batch_size=64,
        out=Path(out) if out is not None else runs_dir(),
        generation=None if options is None else [options],
        with_reconstruction=True,
    )
    return tuple(run_all(plan, in_process=True))


def leaderboard(
    suite: str | None = None, protocol: str | None = None, *, out: Path | str | None = None
) -> pandas.DataFrame:
    """Returns the comparison of the newest runs as a long data frame; scores are fractions (docs/records.md).

    Args:
        suite: Only this suite.
        protocol: Only this protocol.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.

    Raises:
        RecordError: There is no finished run to compare.
    """
    from ovbench.results.leaderboard import leaderboard as compare
    from ovbench.results.leaderboard import to_frame
    from ovbench.results.store import RunStore

    return to_frame(compare(RunStore(Path(out) if out is not None else runs_dir()), suite=suite, protocol=protocol))


def rescore(
    run: str,
    protocol: str | None = None,
    *,
    task: str | None = None,
    control: str = "none",
    out: Path | str | None = None,
) -> Rescored:
    """Scores the stored answers of a run as other programs do; changes no record (docs/scorers.md).

    Args:
        run: Id of a run, or the path of its folder.
        protocol: Only this program's scoring, e.g. `lmms-eval`; None: all that a task has.
        task: Only this task of the run.
        control: `none`, `shuffled` or `blind`.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.

    Returns:
        Our headlines and each program's numbers with the difference; `.rows()` as plain mappings.

    Raises:
        RecordError: No such run, a run of pictures, or damaged answers.
        ConfigError: The protocol, task or control is unknown, or the run's tasks do not have it.
    """
    from ovbench.harness.rescore import rescore as score_again

    return score_again(run, protocol, out=Path(out) if out is not None else runs_dir(), task=task, control=control)


def compare(
    first: str | Path,
    second: str | Path,
    *,
    suite: str | None = None,
    protocol: str | None = None,
    seeds: Sequence[int] = (),
    limit: int | None = None,
    everything: bool = False,
    power: bool = False,
    flips: int = 0,
    force: bool = False,
    draws: int = 10_000,
    draw_seed: int = 0,
    out: Path | str | None = None,
) -> list[Comparison]:
    """Compares two encoders or runs, paired by question or picture; differences are first - second.

    docs/statistics.md says what is computed.

    Args:
        first: Run id, run folder, or encoder spec.
        second: Likewise.
        suite: Only this suite.
        protocol: Only runs of this protocol.
        seeds: Only these; empty: all that both have.
        limit: Only runs with this limit.
        everything: Groups of all scores, not of the headline alone.
        power: Also how many images would tell the two apart.
        flips: So many flipped answers of each task.
        force: Compare common questions though protocol, task or data differ.
        draws: Swaps that the test tries.
        draw_seed: Of bootstrap and swaps.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.

    Returns:
        One comparison per suite; `comparison.to_dict()` is plain JSON.

    Raises:
        OvbenchError: Anything that the user can mend; its text says what, where and how.
    """
    from ovbench.harness.compare import compare_runs
    from ovbench.harness.comparison.answers import Options
    from ovbench.harness.comparison.runs import Wanted

    return compare_runs(
        str(first),
        str(second),
        out=None if out is None else Path(out),
        wanted=Wanted(suite=suite, protocol=protocol, seeds=tuple(seeds), limit=limit),
        options=Options(seed=draw_seed, num_draws=draws, everything=everything, power=power, num_flips=flips),
        force=force,
    )


def fid(
    real: Path | str,
    fake: Path | str,
    *,
    metrics: Sequence[str] | str | None = None,
    mode: str = "adm",
    extractor: str | None = None,
    weights: str | None = None,
    lpips_weights: str | None = None,
    device: str = "cpu",
    precision: str = "float32",
    compile: bool = False,
    batch_size: int | None = None,
    crop_px: int | None = None,
    skip_bad: int = 0,
    convert: bool = False,
    expect: int | None = None,
    purpose: str = "generation",
    split: str | None = None,
    versus: Path | str | None = None,
    kid_subset_size: int = 1000,
    intervals: bool = True,
    seed: int = 0,
    cache: bool = True,
    save_reference: Path | str | None = None,
    audit: AuditRequest | bool = False,
) -> FidReport:
    """Scores pictures against a reference; `report["fid"]` is a value, `report.to_dict()` everything (docs/fid.md).

    Args:
        real: Folder, zip, npz or parquet of pictures, or statistics (.npz, .pt).
        fake: Pictures to score.
        metrics: Names as for `ovbench fid --metrics`; None: what the mode's program prints.
        mode: Whose conventions: `adm`, `torch-fidelity`, `pytorch-fid` or `clean`.
        extractor: Network; None: the mode's.
        weights: Of the network: a file or folder, `random` for a trial run; None: where they are looked for.
        lpips_weights: VGG16 file of LPIPS; None: where it is looked for.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: `float32`, or `bfloat16` for a quick look.
        compile: Compile the Inception network, for a GPU.
        batch_size: Pictures in one pass; None: 16 a core on a CPU, 128 on a GPU.
        crop_px: Cut ADM's centre square of this side first.
        skip_bad: Leave out up to so many unusable pictures a side.
        convert: Turn grey, transparent and 16-bit pictures into 8-bit RGB.
        expect: Refuse a source that does not hold exactly so many distinct pictures.
        purpose: `generation` or `reconstruction`.
        split: What `real` is of, for the record.
        versus: Another generator's pictures of the same seeds, for paired differences.
        kid_subset_size: Where the mode draws subsets.
        intervals: Whether scores get 95% intervals.
        seed: Of jackknife blocks and bootstrap draws.
        cache: Remember features and references.
        save_reference: Write the reference's statistics and features: FILE.npz.
        audit: True, or an `AuditRequest`: also score under every single change of convention.

    Raises:
        OvbenchError: Anything that the user can mend; its text says what, where and how.
    """
    from ovbench.harness.metrics.fid_audit import AuditRequest
    from ovbench.harness.metrics.fid_request import FidRequest, check_precision
    from ovbench.harness.metrics.fid_run import run_fid

    return run_fid(
        FidRequest(
            real=Path(real),
            fake=Path(fake),
            metrics=metrics if metrics is None or isinstance(metrics, str) else ",".join(metrics),
            mode=mode,
            extractor=extractor,
            weights=weights,
            lpips_weights=lpips_weights,
            device=device,
            precision=check_precision(precision),
            compile=compile,
            batch_size=batch_size,
            crop_px=crop_px,
            skip_bad=skip_bad,
            convert=convert,
            expect=expect,
            purpose=purpose,
            split=split,
            versus=None if versus is None else Path(versus),
            kid_subset_size=kid_subset_size,
            intervals=intervals,
            seed=seed,
            cache=cache,
            save_reference=None if save_reference is None else Path(save_reference),
            audit=(AuditRequest() if audit else None) if isinstance(audit, bool) else audit,
        )
    )
