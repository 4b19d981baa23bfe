"""Frozen vision encoders, one file per family; an encoder knows nothing of tasks."""
