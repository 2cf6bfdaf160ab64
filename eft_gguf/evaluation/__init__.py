"""Does it work? Questions, scorers, the sweeps that ask them, and the statistics to read them by."""
