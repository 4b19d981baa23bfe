from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

import pytest

from ovbench.results.formats import to_console, to_csv
from ovbench.results.published.join import JoinedSheet, joined_sheets
from ovbench.results.published.names import ENCODERS, FRAMEWORKS, SCORES
from ovbench.results.published.rows import chosen_rows, published_rows
from ovbench.results.record import ProtocolRecord, RunRecord
from ovbench.results.table import build_tables

LLM = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture
def run(make: Any) -> Any:
    """Makes a run of CLIP B/16 on POPE."""

    def made(protocol: str = "llava15-llama3-8b", spec: str = "clip/b16", **changes: Any) -> RunRecord:
        task = dataclasses.replace(make.POPE, name="pope", headline="pope_f1_mean", n=9000)
        score = make.metric(0.840, task="pope", name="pope_f1_mean", n=9000, half=0.008)
        content = {"understanding": {"language_model": LLM}}
        return make.record(
            spec,
            (score,),
            tasks=(task,),
            encoder_changes={"num_tokens": 196, "resolution_px": (224, 224)},
            protocol=ProtocolRecord(name=protocol, version=1, content=content),
            **changes,
        )

    return made


def joined(*records: RunRecord, source: str = "OpenVision 3 v2") -> list[JoinedSheet]:
    return joined_sheets(build_tables(records), records, chosen_rows(source))


def test_the_difference_is_measured_minus_published(run: Any) -> None:
    (sheet,) = joined(run())
    (pair,) = sheet.pairs
    assert (sheet.source_table, pair.published.encoder, pair.published.value) == ("Table 4", "OpenAI-CLIP B/16", 82.9)
    assert pair.measured == pytest.approx(84.0)
    assert pair.difference == pytest.approx(1.1)


def test_each_source_and_each_of_its_tables_has_a_sheet_of_its_own(run: Any) -> None:
    records = [run()]
    sheets = joined_sheets(build_tables(records), records, published_rows())
    assert sorted((sheet.source[:14], sheet.source_table, sheet.pairs[0].published.value) for sheet in sheets) == [
        ("OpenVision 3 v", "Table 4", 82.9),
        ("OpenVision v1 ", "Table 1", 83.4),
        ("OpenVision v1 ", "Table 4", 82.3),
    ]


def test_what_differs_in_the_protocol_stands_beside_the_difference(run: Any) -> None:
    text = to_console.render(joined(run()), width=200, color=False)
    assert "framework, LLM, split and scorer" in text
    assert f"LLM: here {LLM}, published not stated" in text
    assert "here the mean of the three F1; whether the published number is that or an accuracy is not stated" in text
    assert "tokens" not in text  # they are equal


def test_tokens_and_resolution_that_the_source_does_not_state_are_named(run: Any) -> None:
    sheet, small = joined(run(), source="OpenVision v1 paper")
    assert ("LLM", f"here {LLM}, published Qwen2.5-0.5B") in small.pairs[0].differences
    assert ("tokens", "here 196, published not stated") in sheet.pairs[0].differences
    assert ("LLM", f"here {LLM}, published Llama-3-8B") in sheet.pairs[0].differences


def test_mini_never_joins(run: Any) -> None:
    assert joined(run(protocol="mini")) == []
    assert joined(run(protocol="mini-smoke")) == []
    assert not [start for _, start, _ in FRAMEWORKS if start.startswith("mini")]
    assert not [task for task, _ in SCORES if task.startswith("mini")]
    assert not [spec for spec in ENCODERS.values() if spec.endswith("/mini")]


def test_another_variant_of_the_family_is_not_joined(run: Any) -> None:
    assert joined(run(spec="clip/l14-336")) == []


def test_llava_next_is_not_joined_with_llava_15(run: Any) -> None:
    assert {pair.published.framework for sheet in joined(run()) for pair in sheet.pairs} == {"LLaVA-1.5"}


def test_controls_groups_and_missing_values_are_not_joined(run: Any, make: Any) -> None:
    base = run()
    metrics = (
        make.metric(None, task="pope", name="pope_f1_mean", n=9000),
        make.metric(0.5, task="pope", name="pope_f1_mean", n=9000, control="blind"),
        make.metric(0.5, task="pope", name="pope_f1_mean", n=3000, group="random"),
    )
    assert joined(dataclasses.replace(base, metrics=metrics)) == []


def test_a_limit_is_named_as_a_difference(run: Any) -> None:
    (sheet,) = joined(run(limit=9000))
    assert ("questions", "here 9000, by --limit 9000, published not stated") in sheet.pairs[0].differences


def test_csv_has_both_numbers_and_their_difference_in_columns_of_their_own(run: Any) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv.render(joined(run()))))
    assert (float(row["value"]), float(row["reported"])) == (84.0, 82.9)
    assert float(row["difference"]) == pytest.approx(1.1)
    assert row["kind"] == "measured − published"
    assert row["protocol_differences"].startswith("framework: here llava15-llama3-8b v1, published LLaVA-1.5; LLM: ")


def test_every_name_in_the_tables_of_names_is_printed_somewhere() -> None:
    rows = published_rows()
    assert set(ENCODERS) <= {(row.encoder, row.resolution) for row in rows} | {("SigLIP2-B", "256")}
    assert {metric for score in SCORES.values() for metric in score.metrics} <= {row.metric for row in rows}
    assert {name for *_, names in FRAMEWORKS for name in names} <= {row.framework for row in rows}


def test_every_encoder_that_is_joined_is_one_of_ours() -> None:
    from ovbench.listing import encoder_rows

    assert set(ENCODERS.values()) <= {row["encoder"] for row in encoder_rows()}
