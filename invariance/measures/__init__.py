"""Measures of representations and of predictions, and intervals over images (Sec. 3.2, 5.2, 5.3)."""
