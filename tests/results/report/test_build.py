from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.results.formats import layout
from ovbench.results.formats.to_csv import render as to_csv
from ovbench.results.report.build import Drawn, build_report, write_report
from ovbench.results.report.gather import gather
from ovbench.results.table import build_tables

MAX_BYTES = 5_000_000


class Page(HTMLParser):
    """The tags of a page in order, its text, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "code"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.text += data

    def all(self, tag: str, **attributes: str) -> Iterator[dict[str, str | None]]:
        for name, found in self.tags:
            if name == tag and all(found.get(key.replace("_", "-")) == value for key, value in attributes.items()):
                yield found


def built(world: SimpleNamespace, **changes: Any) -> str:
    given: dict[str, Any] = {"draw": world.draw, "cache": world.cache, **changes}
    return build_report(gather([world.store.root]), **given)


@pytest.fixture(scope="module")
def page(shared_world: SimpleNamespace) -> Page:
    return Page(built(shared_world))


def test_every_section_is_there_and_ids_are_unique(page: Page) -> None:
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(set(ids)) == len(ids)
    for name in ("leaderboards", "tradeoffs", "training", "pictures", "questions", "origins", "data"):
        assert name in ids


def test_links_inside_the_page_have_targets(page: Page) -> None:
    ids = {found.get("id") for _, found in page.tags}
    assert {href[1:] for found in page.all("a") if (href := found["href"] or "")} <= ids


def test_nothing_is_loaded_from_outside(shared_world: SimpleNamespace) -> None:
    text = built(shared_world)
    page = Page(text)
    for _, found in page.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            value = found.get(name)
            assert value is None or value.startswith(("#", "data:"))
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (found["content"] for found in page.all("meta") if found.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:")


def test_texts_of_questions_and_answers_stay_text(shared_world: SimpleNamespace) -> None:
    text = built(shared_world)
    page = Page(text)
    assert shared_world.HOSTILE in page.text
    assert "boot <b>not bold</b>" in page.text
    assert not list(page.all("b"))
    assert set(page.scripts) == {"data", "picture-data", "code"}
    assert not [found for _, found in page.tags if any(name.startswith("on") for name in found)]


def test_names_from_records_stay_text_in_charts_and_json(world: SimpleNamespace) -> None:
    spec = f"clip/{world.HOSTILE}"
    made = world.record(spec, world.two_tasks(0.58, 0.7), tasks=(world.TASK, world.POPE))
    world.store.keep(made, world.answers(spec))
    world.store.keep(world.of_pictures(spec, 300.0), [], {})
    page = Page(built(world))
    assert not [found for found in page.all("img") if found.get("src") == "x"]
    assert len(list(page.all("script"))) == 3
    rows = json.loads(page.scripts["data"])["tables"][0]["rows"]
    assert spec in [row["row"] for row in rows]


def test_two_builds_are_the_same_to_the_byte(shared_world: SimpleNamespace) -> None:
    assert built(shared_world) == built(shared_world)


def test_page_names_no_folder_of_this_machine(shared_world: SimpleNamespace) -> None:
    assert str(shared_world.store.root.parent) not in built(shared_world)


def test_page_is_smaller_than_five_megabytes(shared_world: SimpleNamespace) -> None:
    assert len(built(shared_world).encode()) < MAX_BYTES


def test_values_are_those_of_the_csv(shared_world: SimpleNamespace, page: Page) -> None:
    tables = build_tables(shared_world.store.records())
    wanted = sorted(row["value"] for row in csv.DictReader(io.StringIO(to_csv(tables))) if row["value"])
    shown = [value for found in page.all("td") if (value := found.get("data-value")) and "title" in found]
    assert sorted(shown) == wanted


def test_texts_of_cells_are_those_of_the_other_printed_tables(shared_world: SimpleNamespace, page: Page) -> None:
    for table in build_tables(shared_world.store.records()):
        for row in table.rows:
            for column, cell in row.cells.items():
                if cell.value is not None and column.group is None and column.control == "none":
                    assert layout.number(cell.value, column.unit) in page.text


def test_json_island_holds_full_precision(page: Page) -> None:
    data = json.loads(page.scripts["data"])
    (table,) = (table for table in data["tables"] if table["title"].startswith("understanding"))
    place = next(
        index
        for index, column in enumerate(table["columns"])
        if (column["task"], column["metric"], column["group"], column["control"])
        == ("mini-seed", "accuracy", None, "none")
    )
    (row,) = (row for row in table["rows"] if row["row"] == "ovis3/mini")
    assert row["cells"][place][:3] == [0.6234567, 0.6034567, 0.6434567]


def test_missing_value_says_why(page: Page) -> None:
    assert "no question was answered yes" in page.text
    assert any(found.get("title") == "no question was answered yes" for found in page.all("td"))


def test_mini_control_and_chance_are_labelled(page: Page) -> None:
    assert "mini: small made scenes, not comparable with published numbers" in page.text
    assert re.search(r"random/mini\s+control", page.text)
    assert re.search(r"chance\s+by chance", page.text)


def test_random_weights_stand_in_tables_only_when_named_and_then_say_so(world: SimpleNamespace) -> None:
    untrained = world.encoder("clip/b16?weights=random:0", untrained=True)
    made = world.record("clip/b16", world.two_tasks(0.4, 0.5), tasks=(world.TASK, world.POPE), encoder=untrained)
    world.store.keep(made, world.answers("clip/b16"))
    everything = Page(built(world))
    assert not list(everything.all("tr", data_row="clip/b16?weights=random:0"))
    assert "random weights" in everything.text
    named = Page(build_report(gather([world.store.root], run_ids=[made.run_id]), draw=world.draw))
    assert list(named.all("tr", data_row="clip/b16?weights=random:0", data_kind="untrained"))
    assert "holds random weights: a trial of the pipeline, no result" in named.text


def test_equal_pictures_are_held_once_and_questions_name_theirs(page: Page) -> None:
    pictures = json.loads(page.scripts["picture-data"])
    used = {found["data-picture"] for found in page.all("img") if "data-picture" in found}
    assert used == set(pictures)
    assert 0 < len(used) < len(list(page.all("details", **{"class": "question"})))
    assert all(uri.startswith("data:image/") for uri in pictures.values())


def test_question_without_picture_says_why(shared_world: SimpleNamespace) -> None:
    text = Page(built(shared_world, draw=lambda *_: Drawn(files={}, reason="the data are elsewhere"))).text
    assert "no picture: the data are elsewhere" in text


def test_loss_curves_come_from_logs_in_the_cache_and_a_damaged_log_is_named(world: SimpleNamespace) -> None:
    assert "loss of dit by step" in Page(built(world)).text
    assert "loss of dit by step" not in Page(built(world, cache=None)).text
    (world.cache / "dit" / ("c" * 64) / "dit.log.jsonl").write_text("{broken", encoding="utf-8")
    text = Page(built(world)).text
    assert "dit cccccccccccc: its log cannot be read: JSONDecodeError" in text
    assert "loss of dit by step" in text


def test_distance_by_training_and_tradeoff_are_drawn(page: Page) -> None:
    labels = [found["aria-label"] or "" for found in page.all("svg") if "aria-label" in found]
    assert any(label.startswith("mini-images: FD-wardrobe by training") for label in labels)
    assert "mini-images against mini-seed · mini v1" in labels
    assert "mini-seed against parameters · mini v1" in labels


def test_missing_and_damaged_answers_are_named_and_the_rest_stands(world: SimpleNamespace) -> None:
    by_spec = {
        record.encoder.spec: record.run_id for record in world.store.records() if record.suite == "understanding"
    }
    (world.store.root / by_spec["clip/mini"] / "samples.parquet").unlink()
    (world.store.root / by_spec["random/mini"] / "samples.parquet").write_bytes(b"PAR1 no")
    text = Page(built(world)).text
    assert f"clip/mini: the answers of {by_spec['clip/mini']} cannot be read: samples.parquet is missing" in text
    assert f"random/mini: the answers of {by_spec['random/mini']} cannot be read: samples.parquet is damaged" in text
    assert "what is at 0?" in text
    assert "62.3" in text


def test_missing_and_damaged_sheets_are_named(world: SimpleNamespace) -> None:
    folders = [world.store.root / r.run_id for r in world.store.records() if r.suite == "generation"]
    (folders[0] / "samples.png").unlink()
    (folders[1] / "samples.png").write_bytes(b"\x89PNG no")
    text = Page(built(world)).text
    assert "no picture: the run's folder holds no sheet" in text
    assert "no picture: the picture cannot be read: UnidentifiedImageError" in text


def test_commands_to_repeat_a_run_are_given(page: Page) -> None:
    assert (
        "ovbench run --encoder ovis3/mini --suite understanding --protocol mini --tasks mini-seed,mini-pope --seed 0"
        in page.text
    )


def test_departures_from_the_protocol_are_said_beside_the_command(world: SimpleNamespace) -> None:
    made = world.of_pictures("siglip/mini", 340.0)
    protocol = dataclasses.replace(made.protocol, name="mini, guidance cfg:1.5")
    world.store.keep(world.of_pictures("siglip/mini", 340.0, protocol=protocol), [], {})
    text = Page(built(world)).text
    assert "the run departed from the protocol: guidance cfg:1.5; add these settings" in text


def test_no_question_is_shown_where_none_is_asked_for(shared_world: SimpleNamespace) -> None:
    assert not list(Page(built(shared_world, count=0)).all("details", **{"class": "question"}))


def test_report_is_written_into_a_folder_or_a_file(tmp_path: Path) -> None:
    assert write_report("x", tmp_path / "there.html") == tmp_path / "there.html"
    assert write_report("x", tmp_path / "folder") == tmp_path / "folder" / "report.html"
    assert (tmp_path / "folder" / "report.html").read_text() == "x"


def test_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"'file\.txt' is a file and does not end in \.html"):
        write_report("x", tmp_path / "file.txt")
    with pytest.raises(ConfigError, match="cannot write 'below'") as caught:
        write_report("x", tmp_path / "file.txt" / "below" / "report.html")
    assert caught.value.where.startswith("--out ")
    assert (tmp_path / "file.txt").read_text() == "mine"
