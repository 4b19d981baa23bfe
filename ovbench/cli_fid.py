"""The command `ovbench fid`: options in, tables out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovbench.cli_app import Verbose, guarded, print_rows, setup

if TYPE_CHECKING:
    from ovbench.harness.metrics.fid_report import FidReport


@guarded
def fid(
    real: Annotated[
        Path, typer.Argument(help="Reference: folder, zip, npz or parquet of pictures, or statistics (.npz, .pt).")
    ],
    fake: Annotated[Path, typer.Argument(help="Pictures to score: folder, zip, npz or parquet.")],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="With commas: fid, sfid, fid-infinity, is, kid, pr, prdc, cmmd; of pairs: psnr, ssim, lpips. "
            "Default: what the mode's program prints.",
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="Whose conventions: adm, torch-fidelity, pytorch-fid or clean.")
    ] = "adm",
    extractor: Annotated[
        str | None,
        typer.Option("--extractor", help="Network, e.g. efficientnet-lite0, dinov2-l14. Default: the mode's."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Of the network: a file or folder; `random` for a trial run.")
    ] = None,
    lpips_weights: Annotated[str | None, typer.Option("--lpips-weights", help="VGG16 file of LPIPS.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bfloat16 for a quick look that is not to be reported.")
    ] = "float32",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the Inception network: a minute, for a GPU.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pictures in one pass.")] = None,
    crop: Annotated[int | None, typer.Option("--crop", help="Cut ADM's centre square of this side first.")] = None,
    skip_bad: Annotated[
        int, typer.Option("--skip-bad", help="Leave out up to N unusable pictures a side; --out lists them.")
    ] = 0,
    convert: Annotated[
        bool, typer.Option("--convert", help="Turn grey, transparent and 16-bit pictures into 8-bit RGB.")
    ] = False,
    expect: Annotated[
        int | None, typer.Option("--expect", help="FAKE must hold exactly N pictures, all different.")
    ] = None,
    purpose: Annotated[
        str,
        typer.Option("--purpose", help="generation: against a training set; reconstruction: against the originals."),
    ] = "generation",
    split: Annotated[str | None, typer.Option("--split", help="What REAL is of, e.g. train; for the record.")] = None,
    versus: Annotated[
        Path | None, typer.Option("--versus", help="Another generator's pictures of the same seeds: paired difference.")
    ] = None,
    kid_subset_size: Annotated[int, typer.Option("--kid-subset-size", help="Where the mode draws subsets.")] = 1000,
    intervals: Annotated[bool, typer.Option(help="95% intervals.")] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of jackknife blocks and bootstrap draws.")] = 0,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also score under every single change of convention: what is each worth?")
    ] = False,
    audit_limit: Annotated[
        int | None, typer.Option("--audit-limit", help="Audit on the first N pictures of each side.")
    ] = None,
    audit_reference: Annotated[
        list[Path] | None, typer.Option("--audit-reference", help="Another reference to audit; several times.")
    ] = None,
    save_reference: Annotated[
        Path | None, typer.Option("--save-reference", help="Write REAL's statistics and features: FILE.npz.")
    ] = None,
    cache: Annotated[bool, typer.Option(help="Remember features and references.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="Write the whole report: FILE.json.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Report as JSON on stdout, progress as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Score pictures against a reference: FID, sFID, IS, KID, precision, recall and more, each with its interval."""
    setup(verbose)
    from ovbench._base.errors import ConfigError
    from ovbench._base.files import to_json, write_json
    from ovbench.cli_progress import listening, to_json_line
    from ovbench.harness.metrics.fid_audit import AuditRequest
    from ovbench.harness.metrics.fid_request import FidRequest, check_precision, check_report_target
    from ovbench.harness.metrics.fid_run import headline, open_run

    if out is not None and out.suffix != ".json":
        raise ConfigError(f"the report is written as JSON, got '{out.name}'", where="--out", fix="name it ….json")
    if out is not None:
        check_report_target(out)  # what cannot be written is found before the work
    if not audit and (audit_limit is not None or audit_reference):
        raise ConfigError("an option of the audit, without the audit", where="--audit-…", fix="add --audit")
    request = FidRequest(
        real=real,
        fake=fake,
        metrics=metrics,
        extractor=extractor,
        mode=mode,
        weights=weights,
        lpips_weights=lpips_weights,
        device=device,
        precision=check_precision(precision),
        compile=compile,
        batch_size=batch_size,
        crop_px=crop,
        skip_bad=skip_bad,
        convert=convert,
        expect=expect,
        purpose=purpose,
        split=split,
        versus=versus,
        kid_subset_size=kid_subset_size,
        intervals=intervals,
        seed=seed,
        cache=cache,
        save_reference=save_reference,
        audit=AuditRequest(limit=audit_limit, references=tuple(audit_reference or ())) if audit else None,
    )
    with listening(as_json=json_output) as listener:
        run = open_run(request, listener)
        first = headline(run)
        typer.echo(to_json_line({"headline": first}) if json_output else first, err=True)
        report = run.report()
    if out is not None:
        write_json(out, report.to_dict())
    if json_output:
        typer.echo(to_json(report.to_dict()), nl=False)
    else:
        _print(report)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if out is not None:
        typer.echo(f"written: {out}", err=True)


def _print(report: FidReport) -> None:
    print_rows([_row(entry) for entry in report.to_dict()["scores"]], False)
    if report.curve is not None:
        points = zip(report.curve.sizes, report.curve.values, strict=True)
        typer.echo("\nThe distance by number of generated pictures:")
        print_rows([{"n": size, "value": f"{value:.5g}"} for size, value in points], False)
    if report.differences:
        typer.echo("\nFAKE minus the other generator, paired:")
        print_rows([_row(entry) for entry in report.to_dict()["differences"]], False)
    if report.audit is not None:
        of = f"{report.audit.num_fake} pictures against {report.audit.num_real or 'an unknown number'}"
        typer.echo(f"\nWhat each single change of convention is worth. {report.audit.name} as it stands: ")
        typer.echo(f"{report.audit.base:.6g} ({of})")
        print_rows([_change(row) for row in report.audit.to_dict()["rows"]], False)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns a score as the table shows it."""
    value, low, high = (None if entry[key] is None else f"{entry[key]:.5g}" for key in ("value", "low", "high"))
    row = {"metric": entry["label"], "value": "—" if value is None else value}
    row["95% interval"] = "—" if low is None else f"[{low}, {high}]"
    for column, key in (("n", "n"), ("n reference", "num_reference")):
        if key in entry:
            row[column] = "—" if entry[key] is None else str(entry[key])
    row["how"] = entry["reason"] if value is None else entry.get("how", entry["interval"])
    return row


def _change(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a change as the audit's table shows it."""
    shown = {"what": row["kind"], "change": row["change"]}
    for column in ("both", "mixed"):
        value, gap = row[column], row[f"{column}_minus_base"]
        shown[column] = "—" if value is None else f"{value:.6g} ({gap:+.3g})"
    return shown | {"note": row["note"]}
