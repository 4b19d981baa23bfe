"""Where the numbers are from: runs with weights, data and code, environments once each, and commands to repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ovbench._base.files import to_json
from ovbench._base.fingerprint import fingerprint
from ovbench.results.record import Environment, Measurement, RunRecord
from ovbench.results.report.gather import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run, in words."""

    run_id: str
    name: str  # an id on the page
    encoder: str
    badge: str
    suite: str
    protocol: str
    seed: int
    limit: str
    finished: str
    environment: int  # number of `environments`
    facts: tuple[tuple[str, str], ...]
    command: str
    caution: str  # what the command alone does not repeat
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentView:
    """A machine with its code, shared by runs."""

    number: int
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolView:
    """A recipe, whole."""

    label: str
    digest: str
    content: str  # JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Origins:
    """Everything about where numbers are from."""

    runs: tuple[RunView, ...]
    environments: tuple[EnvironmentView, ...]
    protocols: tuple[ProtocolView, ...]


def origins(runs: Sequence[Run]) -> Origins:
    """Returns the runs in the order given, and what they share."""
    environments: dict[str, EnvironmentView] = {}
    protocols: dict[tuple[str, str], ProtocolView] = {}
    views: list[RunView] = []
    for number, run in enumerate(runs, 1):
        record = run.record
        key = fingerprint(record.environment)
        if key not in environments:
            environments[key] = _environment(record.environment, len(environments) + 1)
        digest = fingerprint(record.protocol.content)
        label = record.protocol.label
        if (label, digest) not in protocols:
            content = to_json(dict(record.protocol.content))
            protocols[label, digest] = ProtocolView(label=label, digest=digest, content=content)
        views.append(_run(record, f"run-{number}", environments[key].number, digest))
    return Origins(runs=tuple(views), environments=tuple(environments.values()), protocols=tuple(protocols.values()))


def command_of(record: RunRecord) -> str:
    """Returns the command that makes a run again, as far as the record says it."""
    base = record.protocol.name.partition(",")[0]
    words = ["ovbench", "run", "--encoder", record.encoder.spec, "--suite", record.suite, "--protocol", base]
    words += ["--tasks", ",".join(task.name for task in record.tasks)] if record.suite == "understanding" else []
    words += ["--limit", str(record.limit)] if record.limit is not None else []
    words += ["--seed", str(record.seed)]
    words += ["--dtype", record.environment.dtype] if record.environment.dtype != "float32" else []
    return shlex.join(words)


def _run(record: RunRecord, name: str, environment: int, protocol: str) -> RunView:
    encoder = record.encoder
    _, _, departures = record.protocol.name.partition(", ")
    badges = ["random weights"] if encoder.untrained else ["control"] if encoder.control else []
    badges += [] if record.complete else ["not complete: in no table"]
    facts = [
        ("weights", f"{encoder.weights}; digest {encoder.weights_digest}"),
        ("identity", encoder.identity),
        ("tap", encoder.tap),
        ("licence", encoder.licence),
        ("training data", encoder.training_data),
        ("citation", encoder.citation),
        ("protocol", f"{record.protocol.label}; digest {protocol}"),
    ]
    facts += [
        (f"task {task.name}", f"v{task.version}; data {task.data_digest}; scorer {task.scorer}")
        for task in record.tasks
    ]
    facts += [(source.role, f"{source.name}; digest {source.digest}") for source in record.sources]
    facts += [
        ("steps", ", ".join(f"{step.name} {step.key[:12]}" for step in record.steps) or "none recorded"),
        ("cost", "; ".join(map(_measured, record.measurements)) or "not recorded"),
    ]
    return RunView(
        run_id=record.run_id,
        name=name,
        encoder=encoder.spec,
        badge=", ".join(badges),
        suite=record.suite,
        protocol=record.protocol.label,
        seed=record.seed,
        limit="all" if record.limit is None else str(record.limit),
        finished=record.finished_utc,
        environment=environment,
        facts=tuple((key, value) for key, value in facts if value),
        command=command_of(record),
        caution=f"the run departed from the protocol: {departures}; add these settings" if departures else "",
        warnings=record.warnings,
    )


def _measured(entry: Measurement) -> str:
    if entry.value is None:
        return f"{entry.name}: not measured, {entry.reason}"
    if entry.unit == "bytes":
        return f"{entry.name} {entry.value / 2**20:,.0f} MiB"
    return f"{entry.name} {entry.value:.4g} {entry.unit}".rstrip()


def _environment(entry: Environment, number: int) -> EnvironmentView:
    state = {True: ", with changes", False: ", clean", None: ""}[entry.git_dirty]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(entry.packages.items()) if version)
    facts = (
        ("ovbench", f"{entry.ovbench_version}; commit {entry.git_commit or 'none: not run from a checkout'}{state}"),
        ("device", f"{entry.device}{f' ({entry.device_name})' if entry.device_name else ''}, {entry.dtype}"),
        ("machine", f"{entry.platform}; {entry.cpu}; {entry.num_cores} cores, {entry.num_threads} threads"),
        ("python", entry.python),
        ("packages", packages),
    )
    return EnvironmentView(number=number, facts=facts)
