"""Figures of trained networks over whole data sets, with the protocol that they hold under."""
