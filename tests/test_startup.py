"""Start-up stays light: what only looks things up loads no library that computes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "numpy", "pandas", "transformers", "pyarrow", "PIL", "matplotlib", "scipy")
MAX_HELP_S = 0.3  # best of five on two busy cores; the median doubles under load
_COMMAND = """
import json, runpy, sys
sys.argv = ["ovbench", *{arguments!r}]
code = 0
try:
    runpy.run_module("ovbench", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
sys.stderr.write(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def _loaded(code: str) -> tuple[int, set[str]]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    exit_code, names = json.loads(done.stderr.splitlines()[-1])
    return exit_code, set(names)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["encoders"], ["tasks"], ["protocols"]], ids=" ".join)
def test_command_that_only_lists_loads_nothing_heavy(arguments: list[str]) -> None:
    exit_code, names = _loaded(_COMMAND.format(arguments=arguments))
    assert exit_code == 0
    assert names.isdisjoint(HEAVY)


def test_import_of_the_package_loads_no_submodule() -> None:
    code = 'import json, sys, ovbench\nsys.stderr.write(json.dumps([0, [n for n in sys.modules if "ovbench" in n]]))'
    assert _loaded(code)[1] == {"ovbench"}


def test_help_is_there_at_once() -> None:
    times_s: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ovbench", "--help"], capture_output=True, check=True)
        times_s.append(time.perf_counter() - began)
        if times_s[-1] < MAX_HELP_S:
            break
    assert min(times_s) < MAX_HELP_S
