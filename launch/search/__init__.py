"""The command that looks for the sampling settings of a prior that give the best figure."""
