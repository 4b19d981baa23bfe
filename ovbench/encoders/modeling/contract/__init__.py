"""The checks behind `ovbench check`: each compares one promise of the encoder contract with what an adapter does."""
