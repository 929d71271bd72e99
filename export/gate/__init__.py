"""The quality gate and the ladder of recipes it climbs when it says no."""
