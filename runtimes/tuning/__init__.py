"""Find an engine's best settings for one file on this machine by measurement, and remember them (docs/tune.md)."""
