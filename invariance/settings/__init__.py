"""What may be set: one schema of every command's configuration, by subject, for commands and Python functions alike.

Nothing here computes, and nothing here asks the machine: values, their types and ranges, and which keys there are.
"""
