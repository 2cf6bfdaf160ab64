"""The mathematics: what a blend is, and its arithmetic."""
