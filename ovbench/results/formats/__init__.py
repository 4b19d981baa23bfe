"""One file per format, each with `render(tables) -> str`; fractions become percent here and nowhere else."""
