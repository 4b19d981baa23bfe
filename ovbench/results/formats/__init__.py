"""One file per format, each with `render(tables) -> str`."""
