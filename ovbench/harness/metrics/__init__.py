"""One file per metric: a pure function first, with its unit, direction and citation beside it."""
