"""Everything that the understanding suite needs at full scale, tiny: benchmarks, conversations, a protocol, a LLaVA.

Names of files, columns and keys are those of the real things; texts and pictures are made up or of the miniature world.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ovbench._base.paths import asset_folder
from ovbench.harness.events import Event, ignore
from ovbench.harness.plan import Plan
from ovbench.harness.run import plan_runs, run_all
from ovbench.harness.understanding.checkpoint_folder import save_checkpoint
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.data import WorldTrainingData
from ovbench.harness.understanding.llava import build_llava
from ovbench.harness.understanding.options_config import UnderstandingOptions
from ovbench.results.record import RunRecord
from tests.tasks.benchmark_files import MAKERS, write_benchmark

LLM = str(asset_folder("lm/mini"))
PROXY = Path(sys.modules["ovbench"].__path__[0]) / "protocols" / "llava15-proxy.yaml"
STAGE1, STAGE2 = "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json"
NUM_SCENES = 40
TASKS = tuple(MAKERS)
Listener = Callable[[Event], None]


def write_data(folder: Path, *, tasks: Sequence[str] = TASKS, num_images: int = 2) -> Path:
    """Writes benchmarks and both lists of conversations with their pictures, as --data names them."""
    for task in tasks:
        write_benchmark(task, folder, num_images)
    world = WorldTrainingData(seed=1, num_scenes=NUM_SCENES)
    (folder / "LLaVA-Pretrain/images").mkdir(parents=True)
    (folder / "coco").mkdir()
    rows: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for number in range(NUM_SCENES):
        picture = Image.fromarray(world.image(f"train-{number:06d}"))
        picture.save(folder / f"LLaVA-Pretrain/images/{number}.png")
        picture.save(folder / f"coco/{number}.png")
        for stage, path in ((1, f"{number}.png"), (2, f"coco/{number}.png")):
            said = world.conversation(stage, number, 0).messages
            turns = [{"from": message.role, "value": message.text} for message in said]
            rows[stage].append({"id": str(number), "image": path, "conversations": turns})
        if number % 10 == 0:  # text alone, as in the mixture of stage 2
            turns = [{"from": "human", "value": "is there a bag ?"}, {"from": "gpt", "value": "no"}]
            rows[2].append({"id": f"text-{number}", "conversations": turns})
    write_list(folder / STAGE1, rows[1])
    write_list(folder / STAGE2, rows[2])
    return folder


def write_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def read_list(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def write_protocol(path: Path, *, changes: Mapping[str, Any] | None = None, **head: Any) -> Path:
    """Writes a protocol of one's own: the proxy's keys, a few large updates, the gate in the mode `warn`.

    The rates are such that answers differ between questions after these updates, and end.

    Args:
        path: The file.
        changes: Of the section `understanding`.
        head: Keys of the head; None deletes one.
    """
    content = yaml.safe_load(PROXY.read_text(encoding="utf-8"))
    content |= {"name": "tiny-llava", "variants": "mini", "suites": {"understanding": ["pope", "mme", "mini-seed"]}}
    section = content["understanding"]
    for stage, template, epochs, rate in (("stage1", "plain", 1, 1e-2), ("stage2", "v1", 2, 1e-3)):
        section["data"][stage].pop("share")
        section[stage] |= {"epochs": epochs, "batch_size": 8, "micro_batch": 4, "template": template, "lr": rate}
        section[stage]["checkpoint_every"] = 2
    section["gate"] |= {"mode": "warn", "num_images": 16}
    section |= {"max_new_tokens": 8, "precision": "float32", "answer_precision": "float32", "feature_dtype": "float32"}
    section |= changes or {}
    content = {key: value for key, value in (content | head).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def write_given(folder: Path, *, encoder: str = "clip/mini", dim: int = 128, seed: int = 0, **options: Any) -> Path:
    """Writes an untrained LLaVA as `--llava` reads it."""
    model = build_llava(LlavaConfig(language_model=LLM), dim, seed=seed)
    save_checkpoint(folder, model, encoder=encoder, aspect="pad", **options)
    return folder


def plan(protocol: Path, out: Path, *, tasks: Sequence[str] | None = None, **words: Any) -> Plan:
    """Returns the plan of a run of clip/mini; what is no word of `plan_runs` is an option of understanding."""
    usual = {"encoders": ["clip"], "suite": "understanding", "limit": None, "seeds": [0], "device": "cpu"}
    usual |= {"dtype": "float32", "batch_size": 64}
    usual |= {key: words.pop(key) for key in list(words) if key in usual}
    options = UnderstandingOptions(**words)
    return plan_runs(protocol=str(protocol), tasks=tasks, out=out, understanding=options, **usual)


def run_here(
    protocol: Path, out: Path, *, tasks: Sequence[str] | None = None, listener: Listener = ignore, **words: Any
) -> RunRecord:
    """Runs in this process, with the cache that the environment names, and returns the record."""
    (record,) = run_all(plan(protocol, out, tasks=tasks, **words), in_process=True, listener=listener)
    return record


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Returns the environment of a command with its own cache and records, one thread, no hub and no network."""
    blocked = folder / "no-network"
    blocked.mkdir(parents=True, exist_ok=True)
    (blocked / "sitecustomize.py").write_text(_NO_NETWORK, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    return {
        **os.environ,
        "OVBENCH_CACHE": str(folder / "cache"),
        "OVBENCH_RUNS": str(folder / "runs"),
        "PYTHONPATH": os.pathsep.join([str(blocked), root]),
        "NETWORK_LOG": str(folder / "network.log"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


# Python imports this at the start of every process, those of a command's workers too.
_NO_NETWORK = """
import os, socket

def refuse(*args, **kwargs):
    raise OSError("the tests have no network")

def looked_up(*args, **kwargs):
    with open(os.environ["NETWORK_LOG"], "a") as file:
        file.write(f"{args}\\n")
    refuse()

with open(os.environ["NETWORK_LOG"] + ".on", "a") as file:
    file.write(f"{os.getpid()}\\n")
socket.socket.__init__ = refuse
socket.getaddrinfo = looked_up
"""


def scores(record: RunRecord) -> dict[str, float | None]:
    """Returns every value of a record by task, control, metric and group."""
    return {f"{item.task} {item.control} {item.name} {item.group}": item.value for item in record.metrics}
