"""Whole numbers that are counted exactly."""

WHOLE = 2**53
"""Above every whole number that can be set: beyond it a number is no longer counted exactly."""
