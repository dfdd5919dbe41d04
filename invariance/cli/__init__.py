"""The edge to the command line."""
