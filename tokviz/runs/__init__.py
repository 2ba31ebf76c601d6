"""One request: what is asked, every method run on it, what is measured."""
