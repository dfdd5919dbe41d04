"""What is about this one paper: its printed numbers, its figures and tables by number, its claims."""
