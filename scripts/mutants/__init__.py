"""Deliberate defects (mutants), and the proof that the tests notice each of them; see ``__main__``."""
