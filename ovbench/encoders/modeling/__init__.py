"""The networks that ovbench owns; the only place below `encoders` that imports torch at module top."""
