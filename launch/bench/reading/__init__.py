"""Measurements of the data layer that need material of their own: codes, remote stores, packing."""
