"""Records of runs and the tables made of them; it reads and writes JSON and never sees a tensor."""
