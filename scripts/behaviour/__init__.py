"""What every method does on every model family, as short hashes: see ``scripts.behaviour_digest``."""
