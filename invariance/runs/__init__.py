"""Run directories: their files, their identity, their rows."""
