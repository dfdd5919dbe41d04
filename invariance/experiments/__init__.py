"""The work of the commands that measure: rows, in runs that survive an interruption."""
