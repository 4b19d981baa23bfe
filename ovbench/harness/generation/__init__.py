"""Representation autoencoders: a decoder on frozen features, and a diffusion transformer on its latents."""
