"""Solvers: one file per method."""
