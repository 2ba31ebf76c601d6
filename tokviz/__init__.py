"""tokviz: see what visual-token pruners keep."""
