"""One file per model family: names, shapes and rules as data."""
