"""The miniature language model: its tokenizer, its text and its training."""
