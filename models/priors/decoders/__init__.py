"""How the priors sample grids code by code, with what they remember between codes."""
