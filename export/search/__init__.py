"""Search over pruning and bits: which combination keeps most within a budget, found by measurement."""
