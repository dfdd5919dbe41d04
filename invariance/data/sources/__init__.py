"""Where images come from: a module for each kind of source, and what all of them have."""
