"""The offline miniature world: real garment photographs composed into scenes with true captions and questions."""
