"""What is asked and how an answer is read; knows no model."""
