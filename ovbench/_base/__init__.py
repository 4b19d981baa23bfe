"""Standard-library foundations that every other part of ovbench stands on; it imports nothing of ovbench."""
