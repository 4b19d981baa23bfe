"""lmms-eval in both directions: its tasks on our models, and its scorers beside ours on the same questions."""
