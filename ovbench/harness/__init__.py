"""The only place where encoders, tasks and results meet."""
