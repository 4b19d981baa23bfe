"""Two runs beside each other: what was set differently, what came out differently, and how sure that is."""
