"""zchat."""
