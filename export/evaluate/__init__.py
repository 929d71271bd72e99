"""Measure what an export lost: perplexity, KL divergence and top-1 agreement with the source, in each runtime."""
