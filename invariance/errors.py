"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A mistake the user can mend. Its text is one line: what is wrong (with the value), where, and what to do.

    The commands print it without a traceback and exit with status 2; in a notebook it is an ordinary `ValueError`.
    """
