"""The fidelity benchmark: what pruning costs in right answers on held-out drawn scenes, method by method."""
