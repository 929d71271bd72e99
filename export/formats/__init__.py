"""Writers: one file per container."""
