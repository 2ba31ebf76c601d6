"""WHAT to keep: pure functions of tensors, one file per method."""
