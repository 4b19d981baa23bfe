"""lmms-eval in both directions, offline. One file, because importing lmms-eval takes seconds in each process."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from ovbench._base.errors import ConfigError, DataError, DependencyError, OvbenchError
from ovbench.harness.understanding.lmms import cross_check as cross_check_module
from ovbench.harness.understanding.lmms import plugin
from ovbench.harness.understanding.lmms.cross_check import CrossRow, cross_check, cross_text
from ovbench.harness.understanding.lmms.holder import open_run
from ovbench.harness.understanding.lmms.layouts import LAYOUTS, counterpart
from ovbench.harness.understanding.lmms.of_run import cross_check_run
from ovbench.harness.understanding.lmms.theirs import ask_lmms_eval
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: pip install 'ovbench[lmms]'")
ROOT = Path(__file__).parents[4]
PACKAGE = Path(cross_check_module.__file__).parent
Make = Callable[..., TaskData]
Script = Callable[[Mapping[str, str]], Any]


def model_class() -> Any:
    from ovbench.harness.understanding.lmms.model import OvbenchLmms

    return OvbenchLmms


def request(
    task: str, doc_id: int, text: str, pictures: list[Any], *, kind: str = "generate_until", **gen_kwargs: Any
) -> Any:
    """One request as lmms-eval makes it."""
    from lmms_eval.api.instance import Instance

    settings = {"until": ["\n\n"], **gen_kwargs}
    return Instance(
        request_type=kind,  # type: ignore[arg-type]
        arguments=(text, settings, lambda doc: pictures, doc_id, task, "test"),
        idx=0,
        metadata={"task": task, "doc_id": doc_id, "repeats": 1},
    )


def picture(value: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.full((20, 30, 3), value, np.uint8))


def built(answerer: Any, *tasks: str) -> Any:
    model = model_class()(answerer=answerer)
    model.task_dict = {task: {"test": [{}] * 50} for task in tasks}
    return model


def by_metric(rows: list[CrossRow], task: str) -> dict[str, CrossRow]:
    return {row.metric_theirs: row for row in rows if row.task == task}


# --- the plug-in -----------------------------------------------------------------------------------------------------


def test_entry_point_of_the_package_gives_the_model_to_lmms_eval() -> None:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    module, _, name = groups["lmms_eval.models"]["ovbench"].partition(":")
    registry = ModelRegistryV2()
    registry.register_manifest(getattr(importlib.import_module(module), name)())
    assert registry.resolve(plugin.MODEL_ID).model_type == "simple"
    assert registry.get_model_class("ovbench") is model_class()


def test_registration_loads_no_torch() -> None:
    code = f"import sys; import {plugin.__name__} as p; p.manifest(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_lmms_eval_is_imported_at_the_top_only_where_lmms_eval_itself_asks() -> None:
    found = set()
    for path in PACKAGE.glob("*.py"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        lines = [ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
        if any(line.startswith(("import lmms_eval", "from lmms_eval")) for line in lines):
            found.add(path.name)
    assert found == {"model.py", "tasks.py"}


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(DependencyError) as raised:
        cross_check(lambda questions: [], [], out=tmp_path)
    assert "pip install 'ovbench[lmms]'" in raised.value.fix


@pytest.mark.slow
def test_command_line_of_lmms_eval_runs_a_task_of_the_user_on_a_run(trained: Any, tmp_path: Path) -> None:
    import datasets

    data = load_data(load_task("mini-pope"), limit=6)
    from PIL import Image

    rows = [
        {"question": item.prompt, "answer": item.answer, "image": Image.fromarray(data.image(item.image_id))}
        for item in data.samples
    ]
    text = datasets.Value("string")
    features = datasets.Features({"question": text, "answer": text, "image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "utils.py").write_text("def picture(doc):\n    return [doc['image']]\n")
    (tmp_path / "tasks" / "my_pope.yaml").write_text(
        f"task: my_pope\ndataset_path: parquet\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.parquet}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_visual: !function utils.picture\n"
        "doc_to_text: question\ndoc_to_target: answer\ngeneration_kwargs: {max_new_tokens: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]\n"
    )
    # What an installation writes from pyproject.toml, so that the entry point is found as a user's is.
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    metadata = tmp_path / "installed" / "ovbench_entry-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ovbench-entry\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[lmms_eval.models]\novbench = {entry['ovbench']}\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "ovbench.harness.understanding.lmms", "--model", "ovbench",
            "--model_args", f"run={trained.folder},batch_size=4", "--tasks", "my_pope", "--device", "cpu",
            "--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples",
        ],
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "installed")]),
            "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1",
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    (samples,) = [*(tmp_path / "out").rglob("*_samples_my_pope.jsonl"), None][:1]
    assert samples is not None, done.stdout[-3000:] + done.stderr[-3000:]
    answers = {row["doc_id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    stored = pandas.read_parquet(trained.folder / "samples.parquet").set_index(["task", "item_id"])["raw"]
    heard = [answers[number]["filtered_resps"] for number in range(len(rows))]
    assert [*map(str, np.ravel(heard))] == [stored["mini-pope", item.item_id] for item in data.samples]


# --- our model under lmms-eval ---------------------------------------------------------------------------------------


def test_requests_of_several_tasks_are_answered_in_order_and_cut(scripted: Script) -> None:
    script = scripted({"first": "yes\n\nand more", "second": " B. END of it ", "third": "plain"})
    model = built(script, "a", "b")
    requests = [
        request("a", 0, "first", [picture(1)], max_new_tokens=7),
        request("b", 1, "third", []),
        request("b", 0, "second", [picture(2)], until=["END", "of"]),
        request("a", 1, "first", [picture(2)], until="nd"),
        request("a", 2, "third", [picture(1)], until=None),
    ]
    assert model.generate_until(requests) == ["yes", "plain", "B.", "yes\n\na", "plain"]
    assert [item.max_new_tokens for item in script.asked if item.text == "first"] == [7, 1024]
    shown = [item.image.getpixel((0, 0))[0] if item.image else None for item in script.asked]
    assert shown == [None, 1, 1, 2, 2]  # questions of one picture stand together


@pytest.mark.parametrize(
    ("pictures", "said"),
    [([1, 2], "2 pictures with one question"), (["clip.mp4"], "no picture: str 'clip.mp4' (a video or a sound?)")],
)
def test_task_that_shows_more_than_one_picture_is_refused_by_name(
    scripted: Script, pictures: list[Any], said: str
) -> None:
    script = scripted({"": "yes"})
    shown = [picture(item) if isinstance(item, int) else item for item in pictures]
    requests = [request("good", 0, "?", [picture(1)]), request("bad", 3, "?", shown), request("bad", 4, "?", shown)]
    with pytest.raises(ConfigError) as raised:
        built(script, "good", "bad").generate_until(requests)
    assert said in raised.value.what
    assert "task 'bad'" in raised.value.what
    assert "document 3" in raised.value.what
    assert script.asked == []


def test_likelihoods_are_refused_with_the_way_out(scripted: Script) -> None:
    with pytest.raises(ConfigError) as raised:
        built(scripted({})).loglikelihood([request("seedbench_ppl", 0, "?", [], kind="loglikelihood")])
    assert "'seedbench_ppl'" in raised.value.what
    assert "too many values to unpack" in raised.value.what
    assert "ovbench run --scoring ppl" in raised.value.fix


def test_several_rounds_are_refused(scripted: Script) -> None:
    with pytest.raises(ConfigError, match="'talk' asks in several rounds"):
        built(scripted({})).generate_until_multi_round([request("talk", 0, "?", [])])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "needs a run or a checkpoint"),
        ("run=a,checkpoint=b,encoder=clip", "needs a run or a checkpoint"),
        ("run=a,encoder=clip", "an encoder goes with a checkpoint; a run knows its own"),
        ("run=a,weights=b", "unknown model argument 'weights'"),
        ("run", "is not a list of name=value"),
        ("run=a,batch_size=0", "the batch size must be 1 or more"),
        ("run=nowhere", "'nowhere' holds no record.json"),
        ("checkpoint=nowhere,encoder=clip", "there is no folder 'nowhere'"),
        ("run=nowhere,device=gpu", "gpu"),
    ],
)
def test_wrong_model_arguments_are_named(arguments: str, said: str) -> None:
    with pytest.raises(OvbenchError) as raised:
        model_class().create_from_arg_string(arguments, {"batch_size": "auto", "device": "cpu"})
    assert said in str(raised.value)


def test_second_evaluation_with_the_same_object_works(trained: Any) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from ovbench.harness.understanding.lmms.tasks import local_task

    data = load_data(load_task("mini-pope"), limit=6)
    model = model_class()(run=trained.folder, device="cpu")
    found = []
    for _ in range(2):
        task = local_task("mine", counterpart(data.spec)[1], data, max_new_tokens=4)
        result: Any = simple_evaluate(
            model=model, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
        )
        found.append([row["filtered_resps"] for row in result["samples"]["mine"]])
    stored = pandas.read_parquet(trained.folder / "samples.parquet").set_index(["task", "item_id"])["raw"]
    assert found == [[[stored["mini-pope", item.item_id]] for item in data.samples]] * 2


# --- lmms-eval on our questions --------------------------------------------------------------------------------------

LONG = {"answers": "two|two|two|three|2|two|two|two|two|two"}
TYPE = "Scene Text-centric VQA"
MADE_UP: dict[str, tuple[list[Any], dict[str, str], dict[str, float]]] = {  # rows, answers, lmms-eval's numbers
    "pope": (
        [("a dog", (), "yes", "random", {}), ("a cat", (), "no", "random", {}), ("an elk", (), "yes", "popular", {})],
        {"dog": "Yes", "cat": "No, there is none", "elk": "no"},
        {"pope_accuracy": 1 / 3, "pope_precision": 1.0, "pope_recall": 0.5, "pope_f1_score": 2 / 3,
         "pope_yes_ratio": 2 / 3},
    ),
    "seedbench": (
        [("hue", "wxyz", "y", "Scene", {}), ("size", "wxyz", "w", "Scene", {}), ("shape", "wxyz", "x", "Text", {})],
        {"hue": "C", "size": "a tree", "shape": "(B)"},
        {"seed_image": 2 / 3},
    ),
    "mme": (
        [("red? Please answer yes or no.", (), "yes", "color", {}), ("blue?", (), "no", "color", {}),
         ("2+2=4?", (), "yes", "numerical_calculation", {}), ("2+2=5?", (), "no", "numerical_calculation", {})],
        {"red": "Yes.", "blue": "no", "=4": "y", "=5": "maybe"},
        {"mme_perception_score": 200.0, "mme_cognition_score": 50.0},
    ),
    "gqa": (
        [("what", (), "t-shirt", "", {}), ("where", (), "left", "", {})],
        {"what": "T-shirt.", "where": "right"},
        {"exact_match": 0.5},
    ),
    "scienceqa_img": (
        [("rock", ("soft", "hard"), "hard", "", {"hint": "Look."}), ("fish", ("fins", "legs"), "fins", "", {})],
        {"rock": "B. hard", "fish": "The answer is A."},
        {"exact_match": 0.5},
    ),
    "textvqa": ([("How MANY", (), "two", "", LONG)], {"How many": "three"}, {"exact_match": 0.3}),
    "vizwiz": ([("count them", (), "two", "", LONG)], {"Count them": "Two."}, {"exact_match": 1.0}),
    "mmbench": (
        [("bird", ("wing", "fin"), "wing", "ornithology", {"index": "7"}),
         ("bird", ("fin", "wing"), "wing", "ornithology", {"index": "1000007"}),
         ("whale", ("wing", "fin"), "fin", "ornithology", {"index": "8"})],
        {"whale": "A", "A. wing": "A", "A. fin": "The answer is B."},
        {"gpt_eval_score": 50.0},
    ),
    "chartqa": (
        [("sum", (), "100", "human", {}), ("share", (), "10%", "augmented", {})],
        {"sum": "104", "share": "10"},
        {"relaxed_overall": 0.5},
    ),
    "ocrbench": (
        [("sign", (), "STOP", TYPE, {}), ("plate", (), "AB 12", TYPE, {})],
        {"sign": "It says stop.", "plate": "no"},
        {"ocrbench_accuracy": 0.001},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, make_benchmark: Make, scripted: Script) -> dict[str, Any]:
    """What lmms-eval makes of every made-up benchmark, twice, in one process."""
    data, script = [], {}
    for name, (rows, answers, _) in MADE_UP.items():
        # `ask_lmms_eval` looks at the name of a task and at its rows alone.
        data.append(make_benchmark(name, "choice", "letter", rows, per_image=2 if name == "mme" else 1))
        script |= answers
    layouts = {item.spec.name: counterpart(item.spec)[1] for item in data}
    lengths = dict.fromkeys(layouts, 4)
    out = tmp_path_factory.mktemp("theirs")
    runs = []
    for _ in range(2):
        runs.append(ask_lmms_eval(scripted(script), data, layouts, max_new_tokens=lengths, out=out))
    return {"first": runs[0], "second": runs[1]}


@pytest.mark.parametrize("name", MADE_UP)
def test_benchmark_that_lmms_eval_has_is_scored_by_its_own_code(heard: dict[str, Any], name: str) -> None:
    expected = MADE_UP[name][2]
    found = heard["first"][name].metrics
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert heard["second"][name] == heard["first"][name]  # OCRBench's own module would add up its counts


def test_every_benchmark_of_the_suite_has_its_counterpart_in_lmms_eval(make_benchmark: Make) -> None:
    names = {
        "pope": "pope", "seedbench": "seedbench", "mme": "mme", "gqa": "gqa", "scienceqa-img": "scienceqa_img",
        "textvqa": "textvqa_val", "vizwiz-val": "vizwiz_vqa_val", "mmbench-dev-static": "mmbench_en_dev_static",
        "chartqa": "chartqa", "ocrbench": "ocrbench",
    }  # fmt: skip
    row = ("q", ("a", "b"), "a", "", {})
    found = {name: counterpart(make_benchmark(name, "choice", "letter", [row]).spec)[0] for name in names}
    assert found == names
    assert set(names.values()) <= set(LAYOUTS)


def test_mini_tasks_get_the_same_accuracy_from_both(trained: Any, tmp_path: Path) -> None:
    data = [load_data(load_task(name), limit=14) for name in ("mini-pope", "mini-seed")]
    answerer = open_run(trained.folder)
    rows = cross_check(answerer, data, out=tmp_path, max_new_tokens=4)
    pope, seed = by_metric(rows, "mini-pope")["pope_accuracy"], by_metric(rows, "mini-seed")["exact_match"]
    stored = pandas.read_parquet(trained.folder / "samples.parquet")
    for row in (pope, seed):
        assert (row.n, row.num_other_prompts, row.num_other_answers) == (14, 0, 0)
        right = stored[stored.task == row.task].eval("parsed == answer").mean()
        assert row.ours == pytest.approx(right)
        if row is seed:
            assert row.theirs == row.ours
    # lmms-eval takes yes and no alone; ours takes everything that does not say no for a yes.
    mine = stored[stored.task == "mini-pope"]
    assert pope.theirs == pytest.approx((mine.raw.str.lower() == mine.answer).mean())
    assert json.loads((tmp_path / "cross-check.json").read_text())[0]["task"] == "mini-pope"
    assert rows == cross_check(answerer, data, out=tmp_path, max_new_tokens=4)


def test_finished_run_is_checked_with_the_answers_that_it_stored(trained: Any, tmp_path: Path) -> None:
    specs = [load_task("mini-pope"), load_task("mini-seed")]
    rows = cross_check_run(trained.folder, specs, out=tmp_path)
    record = json.loads((trained.folder / "record.json").read_text())
    scores = {(item["task"], item["name"]): item["value"] for item in record["metrics"] if item["group"] is None}
    assert {row.task for row in rows} == {"mini-pope", "mini-seed"}
    for row in rows:
        assert row.ours == scores[row.task, row.metric_ours]
        assert row.num_other_answers == 0


def test_task_that_a_run_did_not_ask_is_named(trained: Any, tmp_path: Path) -> None:
    spec = replace(load_task("mini-pope"), name="mini-cope")
    with pytest.raises(ConfigError, match="the run did not ask 'mini-cope'") as raised:
        cross_check_run(trained.folder, [spec], out=tmp_path)
    assert raised.value.fix == "its tasks: mini-pope, mini-seed"


def test_questions_that_changed_since_the_run_are_refused(trained: Any, tmp_path: Path) -> None:
    spec = load_task("mini-pope")
    with pytest.raises(DataError, match="'mini-pope' are not those that the run was asked"):
        cross_check_run(trained.folder, [replace(spec, prompt="well, {question}")], out=tmp_path)


YES_NO = [("dog", (), "yes", "", {}), ("cat", (), "no", "", {}), ("elk", (), "yes", "", {}), ("owl", (), "no", "", {})]


def test_yes_no_task_agrees_with_pope_where_the_answers_are_yes_and_no(
    make_benchmark: Make, scripted: Script, tmp_path: Path
) -> None:
    data = make_benchmark("mine", "yesno", "yesno_strict", YES_NO)
    script = scripted({"dog": "Yes", "cat": "yes", "elk": "no", "owl": "No"})
    found = by_metric(cross_check(script, [data], out=tmp_path), "mine")
    for metric in ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score"):
        assert found[metric].theirs == found[metric].ours == 0.5
        assert found[metric].counterpart == "pope's rule"


def test_answers_that_lmms_eval_drops_part_the_two_and_the_table_says_why(
    make_benchmark: Make, scripted: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_benchmark("mine", "yesno", "pope_official", YES_NO)
    script = scripted({"dog": "Yes", "cat": "It is there", "elk": "I see no elk", "owl": "There is"})
    rows = cross_check(script, [data], out=tmp_path)
    assert capsys.readouterr().out == ""
    found = by_metric(rows, "mine")
    assert (found["pope_f1_score"].theirs, found["pope_f1_score"].ours) == (1.0, pytest.approx(0.4))
    assert (found["pope_accuracy"].theirs, found["pope_accuracy"].ours) == (0.25, 0.25)
    text = cross_text(rows)
    assert "pope_f1_score   1.0000     f1         0.4000 *" in text
    assert "leaves answers that are neither yes nor no out of its counts" in text
    assert "\n* mine, pope_accuracy" not in text


def test_choice_by_letter_is_scored_by_the_rule_of_seedbench_and_agrees(
    make_benchmark: Make, scripted: Script, tmp_path: Path
) -> None:
    rows = [(name, ("one", "two"), "two", "", {}) for name in ("red", "green", "blue")]
    data = make_benchmark("mine", "choice", "letter", rows)
    script = scripted({"red": "b", "green": "B. two", "blue": "(B)"})
    (row,) = cross_check(script, [data], out=tmp_path)
    assert (row.counterpart, row.theirs, row.ours) == ("seedbench's rule", 2 / 3, 2 / 3)


def test_stored_answers_are_scored_and_not_asked_again(make_benchmark: Make, scripted: Script, tmp_path: Path) -> None:
    from ovbench.harness.metrics.judging import judge

    data = make_benchmark("pope", "yesno", "pope_official", YES_NO)
    stored = [judge(data.spec, sample, sample.answer, ()) for sample in data.samples]
    script = scripted({"": "yes"})
    found = by_metric(cross_check(script, [data], out=tmp_path, predictions={"pope": stored}), "pope")
    assert len(script.asked) == len(YES_NO)
    assert (found["pope_accuracy"].theirs, found["pope_accuracy"].ours) == (0.5, 1.0)
    assert found["pope_accuracy"].num_other_prompts == 4  # lmms-eval adds its line about a single word
    assert found["pope_accuracy"].num_other_answers == 2


def test_what_lmms_eval_cannot_score_is_missing_with_a_reason(
    make_benchmark: Make, scripted: Script, tmp_path: Path
) -> None:
    data = make_benchmark("mme", "yesno", "yesno_strict", MADE_UP["mme"][0][:3], per_image=2)
    rows = cross_check(scripted({"": "yes"}), [data], out=tmp_path)
    assert [row.theirs for row in rows] == [None, None]
    assert "it needs both questions of each picture, and 'picture-1' has not two" in rows[0].why
    assert "our scorer has no metric 'mme_perception'" in rows[0].why


def test_seedbench_asks_with_four_options_alone(make_benchmark: Make, scripted: Script, tmp_path: Path) -> None:
    data = make_benchmark("seedbench", "choice", "letter", [("hue", ("a", "b"), "a", "", {})])
    (row,) = cross_check(scripted({"": "A"}), [data], out=tmp_path)
    assert (row.theirs, row.ours) == (None, 1.0)
    assert "it asks with four options, and question 0 has 2" in row.why


def test_row_without_a_column_that_lmms_eval_reads_is_named(
    make_benchmark: Make, scripted: Script, tmp_path: Path
) -> None:
    data = make_benchmark("mmbench", "choice", "letter", [("q", ("a", "b"), "a", "", {"index": "x7"})])
    with pytest.raises(DataError, match="the index 'x7' is not a number") as raised:
        cross_check(scripted({}), [data], out=tmp_path)
    assert raised.value.where == "question 0"


def test_task_given_twice_is_refused(make_benchmark: Make, scripted: Script, tmp_path: Path) -> None:
    data = make_benchmark("mine", "yesno", "yesno_strict", YES_NO)
    with pytest.raises(ConfigError, match="the task 'mine' is given twice"):
        cross_check(scripted({}), [data, data], out=tmp_path)


def test_broken_pictures_are_still_refused_after_lmms_eval_was_imported(
    make_benchmark: Make, scripted: Script, tmp_path: Path
) -> None:
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        data = make_benchmark("mine", "yesno", "yesno_strict", YES_NO)
        cross_check(scripted({"": "yes"}), [data], out=tmp_path)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
