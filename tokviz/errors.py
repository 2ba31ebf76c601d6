"""Errors whose message is a sentence for the user: what is wrong and what to do."""


class BadInput(ValueError):
    """The request cannot be served as given. The message is safe to show and says what to do."""


class Unsupported(BadInput):
    """The request is fine, but this model, cache or setting cannot be pruned; nothing was run."""


class Stopped(Exception):
    """The user pressed Stop; what had been produced until then is kept."""
