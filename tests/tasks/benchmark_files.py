"""Made-up published benchmarks in the column layout of the real tables: a complete data folder for `data_dir=`.

    folder = write_benchmark("pope", tmp_path / "data")
    data = load_data(load_task("pope"), data_dir=folder)

Texts and pictures are made up; names of columns, configurations, splits and files are those of the tables on the hub,
so that `datasets` and lmms-eval read them too. Several rows share each picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Cells = dict[str, Any]

INT, TEXT, TEXTS = pa.int64(), pa.string(), pa.list_(pa.string())
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = pa.list_(PICTURE)
_OBJECTS = ("dog", "cup", "bench", "kite", "fork", "bus", "lamp", "boat")


@dataclass(kw_only=True)
class MadeTable:
    """One table before it is written."""

    folder: str  # of the repository, without its owner
    place: str  # path in it, without the number of the shard and the ending
    columns: dict[str, pa.DataType]
    rows: list[Cells] = field(default_factory=list)


def picture(number: int, *, form: str = "PNG") -> bytes:
    """Returns an encoded picture, 20 x 16, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def cell(number: int) -> Cells:
    """Returns a picture as the library datasets stores it."""
    return {"bytes": picture(number), "path": f"{number:06d}.png"}


def _pope_questions(image: int) -> dict[str, list[tuple[str, str]]]:
    """Returns six questions of each subset: the yes questions are the same in all three, as in the real one."""
    yes = [(f"Is there a {_OBJECTS[(image + n) % 8]} in the image?", "yes") for n in range(3)]
    found = {}
    for place, subset in enumerate(("adversarial", "popular", "random")):
        no = [(f"Is there a {subset} {_OBJECTS[(image + n + place) % 8]} in the image?", "no") for n in range(3)]
        found[subset] = [pair for both in zip(yes, no, strict=True) for pair in both]
    return found


def _pope(num_images: int) -> list[MadeTable]:
    columns = {
        "id": TEXT, "question_id": TEXT, "question": TEXT, "answer": TEXT, "image_source": TEXT, "image": PICTURE,
        "category": TEXT,
    }  # fmt: skip
    rows: list[Cells] = []
    for subset in ("adversarial", "popular", "random"):
        asked = [(image, pair) for image in range(num_images) for pair in _pope_questions(image)[subset]]
        for number, (image, (question, answer)) in enumerate(asked, start=1):
            rows.append(
                {
                    "id": str(len(rows)), "question_id": str(number), "question": question, "answer": answer,
                    "image_source": f"COCO_val2014_{image:012d}", "image": cell(image), "category": subset,
                }
            )  # fmt: skip
    return [MadeTable(folder="POPE", place="data/test", columns=columns, rows=rows)]


def _seedbench(num_images: int) -> list[MadeTable]:
    columns = {
        "answer": TEXT, "choice_a": TEXT, "choice_b": TEXT, "choice_c": TEXT, "choice_d": TEXT, "data_id": TEXT,
        "data_type": TEXT, "question": TEXT, "question_id": TEXT, "question_type_id": INT, "image": PICTURES,
        "segment": pa.list_(INT),
    }  # fmt: skip
    rows = []
    for number in range(9 * num_images):
        rows.append(
            {
                "answer": "ABCD"[number % 4], "choice_a": "One", "choice_b": "Two", "choice_c": "Three",
                "choice_d": "Four", "data_id": f"{number // 3}_1", "data_type": "image",
                "question": f"How many {_OBJECTS[number % 8]}s are there in picture {number}?",
                # One id stands twice, as 49914 does.
                "question_id": "49914" if number in (3, 4) else str(number), "question_type_id": number % 9 + 1,
                "image": [cell(number // 3 % num_images)], "segment": None,
            }
        )  # fmt: skip
    video = {**rows[0], "data_type": "video", "question_type_id": 10, "image": [cell(90), cell(91)], "segment": [0, 8]}
    return [MadeTable(folder="SEED-Bench", place="data/test", columns=columns, rows=[*rows[:5], video, *rows[5:]])]


MME_CATEGORIES = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


def _mme(num_images: int) -> list[MadeTable]:
    columns = {"question_id": TEXT, "image": PICTURE, "question": TEXT, "answer": TEXT, "category": TEXT}
    rows = []
    for place, category in enumerate(MME_CATEGORIES):
        for number in range(max(1, num_images // 2)):
            image = place * max(1, num_images // 2) + number
            for answer in ("Yes", "No"):
                rows.append(
                    {
                        "question_id": f"{category}/{number:04d}.png", "image": cell(image), "category": category,
                        "question": f"Is the answer {answer} to {category} {number}? Please answer yes or no.",
                        "answer": answer,
                    }
                )  # fmt: skip
    return [MadeTable(folder="MME", place="data/test", columns=columns, rows=rows)]


def _gqa(num_images: int) -> list[MadeTable]:
    questions = {
        "id": TEXT, "imageId": TEXT, "question": TEXT, "answer": TEXT, "fullAnswer": TEXT, "isBalanced": pa.bool_(),
        "groups": pa.struct([("global", TEXT), ("local", TEXT)]),
        "types": pa.struct([("detailed", TEXT), ("semantic", TEXT), ("structural", TEXT)]),
    }  # fmt: skip
    rows = [
        {
            "id": f"2{number:07d}", "imageId": f"n{number // 4}",
            "question": f"What is left of the {_OBJECTS[number % 8]}?",
            "answer": _OBJECTS[(number + 1) % 8], "fullAnswer": f"A {_OBJECTS[(number + 1) % 8]}.", "isBalanced": True,
            "groups": {"global": "object", "local": "06-a"},
            "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
        }
        for number in range(4 * num_images)
    ]  # fmt: skip
    images = [{"id": f"n{number}", "image": cell(number)} for number in reversed(range(num_images))]
    return [
        MadeTable(
            folder="GQA", place="testdev_balanced_instructions/testdev", columns=questions, rows=rows
        ),
        MadeTable(
            folder="GQA", place="testdev_balanced_images/testdev", columns={"id": TEXT, "image": PICTURE}, rows=images
        ),
    ]  # fmt: skip


def _scienceqa(num_images: int) -> list[MadeTable]:
    columns = {
        "image": PICTURE, "question": TEXT, "choices": TEXTS, "answer": INT, "hint": TEXT, "task": TEXT, "grade": TEXT,
        "subject": TEXT, "topic": TEXT, "category": TEXT, "skill": TEXT, "lecture": TEXT, "solution": TEXT,
    }  # fmt: skip
    rows = [
        {
            "image": cell(number // 2), "question": f"Which of these is number {number}?",
            "choices": ["a solid", "a liquid", "a gas"][: 2 + number % 2], "answer": number % 2,
            "hint": "" if number % 2 else "Figure: states of matter.\nLook at it.", "task": "closed choice",
            "grade": "grade4", "subject": "natural science", "topic": "physics", "category": "matter",
            "skill": "tell states apart", "lecture": "", "solution": "",
        }
        for number in range(2 * num_images)
    ]  # fmt: skip
    return [MadeTable(folder="ScienceQA", place="ScienceQA-IMG/test", columns=columns, rows=rows)]


def _textvqa(num_images: int) -> list[MadeTable]:
    columns = {
        "image_id": TEXT, "question_id": INT, "question": TEXT, "question_tokens": TEXTS, "image": PICTURE,
        "image_width": INT, "image_height": INT, "flickr_original_url": TEXT, "flickr_300k_url": TEXT, "answers": TEXTS,
        "image_classes": TEXTS, "set_name": TEXT, "ocr_tokens": TEXTS,
    }  # fmt: skip
    rows = [
        {
            "image_id": f"{number // 2:016x}", "question_id": 34602 + number,
            "question": f"what is the brand of this NIKON camera {number}?",
            "question_tokens": ["what", "is", "the", "brand", "of", "this", "nikon", "camera"],
            "image": cell(number // 2), "image_width": 20, "image_height": 16, "flickr_original_url": "",
            "flickr_300k_url": "", "answers": ["nikon"] * 7 + ["dakota", "dakota digital", "nikon"],
            "image_classes": ["Camera"], "set_name": "val",
            "ocr_tokens": [] if number % 2 else ["DAKOTA", "DIGITAL"],
        }
        for number in range(2 * num_images)
    ]  # fmt: skip
    return [MadeTable(folder="textvqa", place="data/validation", columns=columns, rows=rows)]


def _vizwiz(num_images: int) -> list[MadeTable]:
    columns = {"question_id": TEXT, "image": PICTURE, "question": TEXT, "answers": TEXTS, "category": TEXT}
    rows = [
        {
            "question_id": f"VizWiz_val_{number:08d}.jpg", "image": cell(number // 2),
            "question": "Ok. There is another picture I hope it is a better one." if number else "What is this CAN?",
            "answers": ["unanswerable"] * 6 + ["soup", "can", "soup", "tomato soup"], "category": "other",
        }
        for number in range(2 * num_images)
    ]  # fmt: skip
    return [MadeTable(folder="VizWiz-VQA", place="data/val", columns=columns, rows=rows)]


MMBENCH_KINDS = (
    "coarse_perception", "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)",
    "attribute_reasoning", "relation_reasoning", "logic_reasoning",
)  # fmt: skip


def _mmbench(num_images: int) -> list[MadeTable]:
    columns = {
        "index": INT, "question": TEXT, "hint": TEXT, "answer": TEXT, "A": TEXT, "B": TEXT, "C": TEXT, "D": TEXT,
        "category": TEXT, "image": PICTURE, "source": TEXT, "L2-category": TEXT, "comment": TEXT, "split": TEXT,
    }  # fmt: skip
    rows = []
    for number in range(max(num_images, len(MMBENCH_KINDS))):
        options = ["a cube", "a ball", "a cone", "a ring"] if number % 2 else ["yes, it does", "no, it does not"]
        for turn in range(len(options)):  # every rotation is a row; its index has millions added
            turned = options[turn:] + options[:turn]
            cells = dict(zip("ABCD", [*turned, "nan", "nan"], strict=False))
            rows.append(
                {
                    "index": 1_000_000 * turn + 241 + number, "question": f"Which shape is shown in {number}?",
                    "hint": "nan" if number % 3 else "The passage says: look up.",
                    "answer": "ABCD"[turned.index(options[0])], **cells, "category": "image_style",
                    "image": cell(number % num_images), "source": "made up",
                    "L2-category": MMBENCH_KINDS[number % len(MMBENCH_KINDS)], "comment": "nan", "split": "dev",
                }
            )  # fmt: skip
    return [MadeTable(folder="MMBench", place="en/dev", columns=columns, rows=rows)]


def _chartqa(num_images: int) -> list[MadeTable]:
    columns = {"type": TEXT, "question": TEXT, "answer": TEXT, "image": PICTURE}
    rows = [
        {
            "type": ("human_test", "augmented_test")[number % 2], "question": f"What is the value of bar {number}?",
            "answer": ("12.5", "Yes", "1,000", "10%")[number % 4], "image": cell(number // 2),
        }
        for number in range(2 * num_images)
    ]  # fmt: skip
    return [MadeTable(folder="ChartQA", place="data/test", columns=columns, rows=rows)]


OCRBENCH_TYPES = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction", "Handwritten Mathematical Expression Recognition",
)  # fmt: skip


def _ocrbench(num_images: int) -> list[MadeTable]:
    columns = {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": TEXTS, "image": PICTURE}
    rows = [
        {
            "dataset": "HME100k" if "Mathematical" in kind else "IIIT5K", "question": "what is written in the image?",
            "question_type": kind, "answer": ["CENTRE", "center"][: 1 + place % 2], "image": cell(place % num_images),
        }
        for place, kind in enumerate(OCRBENCH_TYPES)
    ]  # fmt: skip
    return [MadeTable(folder="OCRBench", place="data/test", columns=columns, rows=rows)]


MAKERS: dict[str, Callable[[int], list[MadeTable]]] = {
    "pope": _pope,
    "seedbench": _seedbench,
    "mme": _mme,
    "gqa": _gqa,
    "scienceqa-img": _scienceqa,
    "textvqa": _textvqa,
    "textvqa-ocr": _textvqa,
    "vizwiz-val": _vizwiz,
    "mmbench-dev-static": _mmbench,
    "chartqa": _chartqa,
    "ocrbench": _ocrbench,
}


def write_benchmark(task_name: str, folder: Path, num_images: int = 4) -> Path:
    """Writes the data of a task, made up, into a data folder and returns the folder.

    Args:
        task_name: A task of the catalogue with published data.
        folder: The data folder; several tasks may share it.
        num_images: How many distinct pictures, or of MME and MMBench about how many in each category.
    """
    if task_name == "pope-v1":
        write_pope_files(folder / "pope-v1", num_images)
        return folder
    for table in MAKERS[task_name](num_images):
        write_table(table, folder)
    return folder


def write_table(table: MadeTable, folder: Path, *, num_shards: int = 1) -> list[Path]:
    """Writes a table as the hub has it and returns its files."""
    size = -(-len(table.rows) // num_shards)
    paths = []
    for shard in range(num_shards):
        path = folder / table.folder / f"{table.place}-{shard:05d}-of-{num_shards:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(arrow_table(table, table.rows[shard * size : (shard + 1) * size]), path, row_group_size=5)
        paths.append(path)
    return paths


def arrow_table(table: MadeTable, rows: list[Cells]) -> pa.Table:
    """Returns rows with the metadata by which the library datasets knows a column of pictures."""
    features = {name: _feature(kind) for name, kind in table.columns.items()}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.Table.from_pylist(rows, pa.schema(list(table.columns.items()), about))


def _feature(kind: pa.DataType) -> Any:
    if kind == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(place).name: _feature(kind.field(place).type) for place in range(kind.num_fields)}
    return {"dtype": str(kind), "_type": "Value"}


def write_pope_files(folder: Path, num_images: int = 4) -> None:
    """Writes POPE's own files: one of JSON lines per subset, and COCO's pictures beside them."""
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    names = [f"COCO_val2014_{image:012d}.jpg" for image in range(num_images)]
    for image, name in enumerate(names):
        (folder / "val2014" / name).write_bytes(picture(image, form="JPEG"))
    for subset in ("adversarial", "popular", "random"):
        asked = [(image, pair) for image in range(num_images) for pair in _pope_questions(image)[subset]]
        lines = [
            json.dumps({"question_id": number, "image": names[image], "text": question, "label": answer})
            for number, (image, (question, answer)) in enumerate(asked, start=1)
        ]
        (folder / f"coco_pope_{subset}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
