"""Win back what pruning or few bits lost: train a student to answer as its teacher does."""
