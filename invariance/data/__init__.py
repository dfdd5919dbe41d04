"""Images: where they come from, decoded once, and read in an exact order."""
