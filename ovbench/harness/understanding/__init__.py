"""LLaVA-1.5 on frozen features: training in two stages, and answering questions."""
