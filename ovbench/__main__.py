"""`python -m ovbench` and the `ovbench` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from ovbench.cli import app

        app()
    except KeyboardInterrupt:  # before or after the command itself, which handles its own
        sys.exit(130)


if __name__ == "__main__":
    main()
