"""`python -m ovbench` and the `ovbench` command."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    from ovbench.cli import app

    app()


if __name__ == "__main__":
    main()
