"""Structured pruning: whole layers, heads, channels and tokens go, and a stock Hugging Face folder comes out."""
