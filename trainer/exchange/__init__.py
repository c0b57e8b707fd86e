"""Weights of other projects to exports of this one, and back: every key accounted for, nothing approximated."""
