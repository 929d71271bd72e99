"""Measure a session the way llama-bench does, and write it down."""
