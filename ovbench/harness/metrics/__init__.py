"""One file per metric: pure functions from answers to scores with intervals."""
