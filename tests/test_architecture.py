"""Who may import whom. The sources are parsed and nothing is imported, so the test costs nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ovbench"
HEAVY = {"torch", "numpy", "pandas", "transformers"}
HEAVY_AT_TOP = ("encoders/modeling/", "harness/", "tasks/world/draw.py")  # config.py never, wherever it is
PARTS = {"understanding", "generation", "pretraining"}  # of harness; they never import each other
MAY_IMPORT = {
    "_base": {"_base"},
    "encoders": {"_base", "encoders"},
    "testing": {"_base", "encoders"},
    "tasks": {"_base", "tasks"},
    "results": {"_base", "results"},
    "harness": {"_base", "encoders", "tasks", "results", "harness"},
    "cli": {
        "_base",
        "encoders",
        "tasks",
        "results",
        "harness",
        "cli_app",
        "cli_data",
        "cli_export",
        "cli_compare",
        "cli_fid",
        "cli_gen",
        "cli_plan",
        "cli_progress",
        "cli_records",
        "cli_run",
        "cli_rescore",
        "listing",
        "testing",
    },
    "cli_app": {"_base", "results"},  # parts of the command line, for itself alone
    "cli_data": {"_base", "tasks", "cli_app"},
    "cli_export": {"_base", "harness", "cli_app"},
    "cli_compare": {"_base", "results", "harness", "cli_app"},
    "cli_fid": {"_base", "results", "harness", "cli_app", "cli_progress"},
    "cli_gen": {"_base", "harness", "cli_app", "cli_records"},
    "cli_run": {"_base", "harness", "cli_app", "cli_launch", "cli_records"},
    "cli_launch": {"_base", "harness", "results"},
    "cli_plan": {"_base", "harness", "cli_app"},
    "cli_progress": {"_base", "harness"},
    "cli_records": {"_base", "results", "harness", "cli_progress"},
    "cli_rescore": {"_base", "results", "harness", "cli_app"},
    "api": {"_base", "encoders", "tasks", "results", "harness"},
    "listing": {"_base", "encoders", "tasks", "results", "harness"},
    "__main__": {"_base", "cli"},
    "__init__": {"_base", "api", "encoders"},  # for type checkers alone: its names are lazy
}
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST, package: str, at_top: bool = True) -> Iterator[tuple[str, bool]]:
    """Yields the dotted name of each import below `node`, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*parents, *([child.module] if child.module else [])])
            yield from ((f"{base}.{alias.name}", at_top) for alias in child.names)
        else:
            runs = not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, at_top and runs and not _is_typing_block(child))


def faults(name: str, source: str) -> list[str]:
    """Returns what the file `name` (a path inside the package) imports against the rules."""
    area = name.split("/")[0].removesuffix(".py")
    heavy_file = name.startswith(HEAVY_AT_TOP) and not name.endswith("config.py")
    found: list[str] = []
    for module, at_top in _imports(ast.parse(source), ".".join(["ovbench", *name.split("/")[:-1]])):
        root, _, rest = module.partition(".")
        target = rest.replace(".", "/")
        if root in HEAVY and at_top and not heavy_file:
            found.append(f"{name} loads {root} when it is imported")
        if root != "ovbench" or (rest == "__version__" and area != "_base"):
            continue
        if rest.split(".")[0] not in MAY_IMPORT.get(area, set()):
            found.append(f"{name} imports {module}")
        if at_top and area == "__init__":
            found.append(f"{name} imports {module} when it is imported")
        config_of_config = name.endswith("config.py") and "config/" in target
        heavy_target = target.startswith(("encoders/modeling", "harness/", "tasks/world/draw")) and not config_of_config
        if at_top and heavy_target and not heavy_file:
            found.append(f"{name} loads the heavy module {module} when it is imported")
        own, other = (PARTS & set(path.split("/")[1:2]) for path in (name, target))
        if area == "harness" and target.startswith("harness/") and own and other and own != other:
            found.append(f"{name} imports another part of the harness: {module}")
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_imports_follow_the_arrows(name: str) -> None:
    assert faults(name, (PACKAGE / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("_base/x.py", "from ovbench.tasks import base"),
        ("_base/x.py", "import ovbench.results.record"),
        ("encoders/clip.py", "import torch"),
        ("encoders/clip.py", "try:\n    import torch.nn\nexcept ImportError:\n    raise"),
        ("encoders/clip.py", "def load():\n    from ovbench.tasks.base import TaskSpec"),
        ("encoders/clip.py", "from ovbench.encoders.modeling.vit import Vit"),
        ("encoders/clip.py", "from .modeling import vit"),
        ("tasks/load.py", "from ovbench.tasks.world.draw import draw_scene"),
        ("results/table.py", "import pandas"),
        ("results/table.py", "from ovbench import harness"),
        ("harness/run.py", "from ovbench.cli import app"),
        ("harness/generation/config.py", "import torch"),
        ("harness/generation/dit.py", "from ovbench.harness.understanding.llava import Llava"),
        ("cli.py", "from ovbench.harness.run import run_suite"),
        ("listing.py", "from ovbench.cli import app"),
        ("results/table.py", "from ovbench.listing import encoder_rows"),
        ("__init__.py", "from ovbench.results.record import RunRecord"),
        ("new_area/x.py", "from ovbench._base import errors"),
    ],
)
def test_breach_is_found(name: str, source: str) -> None:
    assert faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("encoders/clip.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("encoders/clip.py", "def load():\n    from ovbench.encoders.modeling.vit import Vit"),
        ("results/provenance.py", "from ovbench import __version__"),
        ("harness/run.py", "import torch\nfrom ovbench.harness.understanding.train import train_llava"),
        ("harness/understanding/config.py", "from ovbench.harness.config import LoopConfig"),
        ("cli.py", "def run():\n    from ovbench.harness.run import run_suite"),
        ("cli.py", "def run():\n    from ovbench.listing import encoder_rows"),
    ],
)
def test_permitted_import_is_not_reported(name: str, source: str) -> None:
    assert faults(name, source) == []
