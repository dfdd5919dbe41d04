"""What stands outside the package and is named as `module:name`, by hand: it is code, and is run when it is imported.

A name is looked up only where it was typed on a command line or given in Python, never where it stands in a folder of
data, weights or runs.
"""

import importlib
import re
from typing import Any

from invariance.errors import UserError, nearest


def is_named(name: object) -> bool:
    """Whether something is a name of this form."""
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name))


def named(name: str, what: str) -> Any:  # noqa: ANN401
    """What `module:name` is.

    Args:
        name: the name.
        what: what it is to be, for the message, as "measure".

    Raises:
        UserError: if it is not of this form, or is not there.
    """
    if not is_named(name):
        raise UserError(f"{what} {name!r}: give module:function, as mine:{what.split()[-1]}")
    module, _, attribute = name.partition(":")
    try:
        there = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{what} {name!r}: the module {module} cannot be imported ({type(error).__name__}: {why[:200]}); install "
            "it, or put its folder into PYTHONPATH"
        ) from error
    if not hasattr(there, attribute):
        known = [key for key in vars(there) if not key.startswith("_")]
        raise UserError(f"{what} {name!r}: {module} has no {attribute}{nearest(attribute, known)}")
    return getattr(there, attribute)
