"""`python -m ovbench.harness.understanding.lmms …` is `lmms-eval …`, started so that torchvision can be imported.

lmms-eval imports torchvision before it loads any plug-in. Where torchvision's compiled operators were made for another
build of torch that import fails, and no plug-in can help; here what is missing is declared first.
"""

from __future__ import annotations

import runpy
import sys

from ovbench._base.errors import OvbenchError
from ovbench._base.lazy import require


def main() -> int:
    """Runs lmms-eval's own command line on the words behind the module's name; returns 2 where it is not installed."""
    try:
        require("lmms_eval", extra="lmms", purpose="lmms-eval")
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
