"""`python -m ovbench.harness.understanding.lmms …` is `lmms-eval …`, started so that torchvision can be imported.

lmms-eval imports torchvision before it loads any plug-in. Where torchvision's compiled operators were made for another
build of torch that import fails, and no plug-in can help; here what is missing is declared first.
"""

from __future__ import annotations

import runpy
import sys
from importlib import metadata

from ovbench._base.errors import DependencyError, OvbenchError
from ovbench._base.lazy import require
from ovbench.harness.understanding.lmms.plugin import MODEL_ID


def main() -> int:
    """Runs lmms-eval's own command line on the words behind the module's name; returns 2 where it is not installed."""
    try:
        require("lmms_eval", extra="lmms", purpose="lmms-eval")
        _check_entry_point()
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)
    return 0


def _check_entry_point() -> None:
    """Raises where the installed package is older than the plug-in, which lmms-eval would call an unknown model."""
    if not any(point.name == MODEL_ID for point in metadata.entry_points(group="lmms_eval.models")):
        raise DependencyError(
            "lmms-eval cannot find the model 'ovbench': the package was installed before it had one",
            where="entry points of ovbench",
            fix="install it again: python -m pip install --no-deps -e . (in a clone), or --force-reinstall ovbench",
        )


if __name__ == "__main__":
    sys.exit(main())
