"""Measurements that are repeated by hand; ``python -m benchmarks.selection`` is the first of them."""
