"""The page that tells how to add an encoder, followed word by word: its package is installed, its commands are run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovbench.encoders.registry import parse_encoder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add-an-encoder.md"
MAX_ADAPTER_LINES = 20


def blocks(language: str) -> list[str]:
    """Returns the page's code blocks of a language ('' for commands)."""
    return [
        code for kind, code in re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
        if kind == language
    ]  # fmt: skip


def block(marker: str) -> str:
    """Returns the one code block that holds a text."""
    (found,) = (code for kind in ("", "python", "toml") for code in blocks(kind) if marker in code)
    return found


def test_the_adapter_has_at_most_twenty_lines() -> None:
    adapter = block("def build(")
    assert len([line for line in adapter.splitlines() if line.strip()]) <= MAX_ADAPTER_LINES


def test_every_encoder_that_the_page_names_is_a_spec_that_is_understood() -> None:
    specs = re.findall(r"--encoder ((?:timm|open_clip|hf|clip)\S+)", PAGE.read_text(encoding="utf-8"))
    assert len(specs) == 5
    for spec in specs:
        assert parse_encoder(spec.replace("COMMIT", "0" * 40)).source


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package installed by pip below `site`, and weights of its network in `weights.pt`."""
    folder = tmp_path_factory.mktemp("myvit")
    package = folder / "source" / "myvit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "network.py").write_text(block("class MyViT"), encoding="utf-8")
    (package / "adapter.py").write_text(block("def build("), encoding="utf-8")
    (package / "family.py").write_text(block("FAMILY ="), encoding="utf-8")
    project = block('[project.entry-points."ovbench.encoders"]') + 'myvit-family = "myvit.family:FAMILY"\n'
    (folder / "source" / "pyproject.toml").write_text(project, encoding="utf-8")
    assert importlib.util.find_spec("hatchling"), "hatchling builds the page's package: pip install 'ovbench[dev]'"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder / "site")]
    words = [sys.executable, "-m", "pip", "install", *options, str(folder / "source")]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    save = (
        "import torch; from myvit.network import MyViT; torch.manual_seed(0); "
        "torch.save(MyViT().state_dict(), 'weights.pt')"
    )
    done = python(folder, "-c", save)
    assert done.returncode == 0, done.stderr
    return folder


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the folder, with the package installed and no hub."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")]),
        "OVBENCH_CACHE": str(folder / "cache"),
        "OVBENCH_RUNS": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    words = (sys.executable, *words)
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )  # fmt: skip


def commands() -> list[str]:
    """The page's commands about its own package, but for the installation, which the fixture does."""
    return [line for line in block("ovbench check myvit").splitlines() if line.startswith("ovbench ")]


def test_the_listing_shows_the_package_and_does_not_import_it(place: Path) -> None:
    done = python(place, "-X", "importtime", "-m", "ovbench", "encoders")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^myvit +of myvit 1\.0 .* plug-in$", done.stdout, flags=re.M)
    assert re.search(r"\| +ovbench\.encoders\.plugins$", done.stderr, flags=re.M)
    assert not re.search(r"\| +(myvit|torch)\b", done.stderr)


@pytest.mark.parametrize("command", [each for each in commands() if not each.startswith("ovbench run")])
def test_a_command_of_the_page_ends_well(place: Path, command: str) -> None:
    done = python(place, "-m", *shlex.split(command))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_run_of_the_page_leaves_a_record_of_the_encoder(place: Path) -> None:
    (command,) = (each for each in commands() if each.startswith("ovbench run"))
    done = python(place, "-m", *shlex.split(command), "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["encoder"]["spec"] == f"myvit/default:{place.resolve() / 'weights.pt'}"
    assert {"mini-seed", "mini-pope"} <= {task["name"] for task in record["tasks"]}


def test_the_pytest_of_the_page_passes(place: Path) -> None:
    (place / "test_myvit.py").write_text(block("check_encoder("), encoding="utf-8")
    done = python(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_myvit.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_registration_of_the_page_works_in_its_process(place: Path) -> None:
    done = python(place, "-c", block("register_encoder") + "print(encoder.info.name, encoder.info.dim)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "myvit-here/default 96\n"


def test_the_family_of_the_page_has_its_metadata_on_the_card(place: Path) -> None:
    done = python(place, "-m", "ovbench", "encoders", "show", "myvit-family/tiny:weights.pt", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert (card["licence"], card["training_data"], card["provider"]) == ("Apache-2.0", "CC12M", "myvit 1.0")
    assert card["tokens"]["num_tokens"] == 64
    assert card["weights"]["loaded"]


def test_device_and_dtype_and_layer_reach_the_adapter(place: Path) -> None:
    code = (
        "import ovbench, torch; e = ovbench.load_encoder('myvit:weights.pt?layer=-2', dtype='bfloat16'); "
        "t = e.llm_tokens(torch.rand(1, 3, 64, 64)); print(t.dtype, e.info.llm_tap.layer)"
    )
    done = python(place, "-c", code)
    assert done.stdout == "torch.bfloat16 -2\n", done.stderr


def test_weights_that_do_not_fit_are_an_error_of_the_adapter_without_a_traceback(place: Path) -> None:
    (place / "broken.pt").write_bytes(b"no weights")
    done = python(place, "-m", "ovbench", "encoders", "show", "myvit:broken.pt")
    assert done.returncode == 2
    assert "the adapter of 'myvit' failed" in done.stderr
    assert f"{Path('myvit', 'adapter.py')}, line 9, in build" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_source_says_what_to_name(place: Path) -> None:
    done = python(place, "-m", "ovbench", "check", "myvit")
    assert done.returncode == 2
    assert "the encoder 'myvit' needs weights" in done.stderr
    assert "myvit:/path" in done.stderr


@pytest.mark.parametrize(
    ("file", "right", "wrong", "check"),
    [
        ("adapter.py", "num_prefix=1", "num_prefix=0", "prefix"),
        ("network.py", ".flatten(2)", ".transpose(2, 3).flatten(2)", "locality"),
        ("network.py", "self.patches(x)", "self.patches((x - 0.5) / 0.25)", "normalisation"),
        ("network.py", "in self.blocks:", "in self.blocks[:-1]:", "taps"),
    ],
)
def test_a_mistake_that_the_page_warns_of_is_found(
    place: Path, tmp_path: Path, file: str, right: str, wrong: str, check: str
) -> None:
    shutil.copytree(place / "site", tmp_path / "site")
    shutil.copy(place / "weights.pt", tmp_path)
    module = tmp_path / "site" / "myvit" / file
    code = module.read_text(encoding="utf-8")
    assert code.count(right) == 1
    module.write_text(code.replace(right, wrong), encoding="utf-8")
    done = python(tmp_path, "-m", "ovbench", "check", "myvit:weights.pt")
    assert done.returncode == 2, done.stderr
    assert re.search(rf"^{check} +failed ", done.stdout, flags=re.M)
