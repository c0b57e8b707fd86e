"""The command that finds a palette of colors for priors over pixels."""
