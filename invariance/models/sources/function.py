"""Models from a function that the user names as `module:function`: it is code, and is run."""

from collections.abc import Callable
from typing import Any

from torch import nn

from invariance.errors import UserError
from invariance.models.model import Model, wrap
from invariance.models.sources.weights import Drawn, Weights, fill
from invariance.settings.named import is_named, named


def load(name: str, *, weights: Drawn | Weights | None = None, **settings: Any) -> Model:  # noqa: ANN401
    """The model that a function without arguments gives.

    Args:
        name: `module:function`; it gives a `Model`, or a torch module with `settings` for it.
        weights: what is put into the module; None: it has its own.
        settings: as `wrap` takes them.

    Raises:
        UserError: if there is no such function, it fails, or gives something else; for a module without preprocess=;
            or for weights that do not fit.
    """
    if isinstance(weights, Drawn):
        raise UserError(f"model={name}: the function makes its own weights; leave weights='random' out")
    function = imported(name)
    try:
        made = function()
    except UserError:
        raise
    except Exception as error:
        why = next(iter(str(error).splitlines()), "")
        raise UserError(f"model={name}: the function failed with {type(error).__name__} ({why[:200]})") from error
    if isinstance(made, nn.Module):
        if weights is not None:
            fill(made, weights, name)
        return wrap(made, **{**settings, "name": settings.get("name") or name})
    if not isinstance(made, Model):
        raise UserError(f"model={name}: the function gave a {type(made).__name__}; let it give a module or a Model")
    given = [key for key in ("preprocess", "size", "classes") if settings.get(key) is not None]
    given += ["weights"] if weights is not None else []
    if given:
        raise UserError(
            f"model={name}: the function gave a Model, which has its own {', '.join(given)}; leave that out"
        )
    return made.renamed(settings.get("name") or made.name).moved(settings.get("device"))


def imported(name: str) -> Callable[..., Any]:
    """What `module:function` names.

    Raises:
        UserError: if it is not of this form, or is not there.
    """
    if not is_named(name):
        raise UserError(f"{name!r} names no function; give it as module:function")
    function: Callable[..., Any] = named(name, "function")
    if not callable(function):
        raise UserError(f"{name} is a {type(function).__name__}; give a function")
    return function
