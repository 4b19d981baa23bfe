"""Published benchmarks: tables as the hub has them, from a folder, the hub's cache or the hub."""
