"""Calibration: the text, and the one pass over the model that gathers what every method wants to know of it."""
