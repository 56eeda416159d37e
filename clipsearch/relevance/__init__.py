"""How well an index answers: its modes side by side, by judgments or by its own captions."""
