"""Device profiles, tiers, memory and speed models. Standard library only."""
