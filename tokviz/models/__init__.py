"""WHERE visual tokens live: one file per model family, the menu, loading."""
