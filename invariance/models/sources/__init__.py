"""Where models come from: each source a module here. `SOURCES` is the only list."""

from collections.abc import Callable
from typing import Any

from invariance.errors import UserError, nearest
from invariance.models.model import Model
from invariance.models.sources import function
from invariance.settings.named import named

ModelSource = Callable[..., Model]
"""A source: from what stands behind its name, and the settings of `wrap`, to a model."""

SOURCES: dict[str, str | ModelSource] = {
    "function": "invariance.models.sources.function:load",
    "timm": "invariance.models.sources.timm:load",
    "torchvision": "invariance.models.sources.torchvision:load",
    "hugging_face": "invariance.models.sources.hugging_face:load",
}
"""Sources by the name that stands before the slash, as "function/mine:network": `module:function`, or the function."""

TAKES = "module:function, which gives a module or a model; or the folder of a training run"
"""What a model's name can be, beside `<source>/<name>`."""


def from_source(name: str, **settings: Any) -> Model:  # noqa: ANN401
    """A model by its name: `<source>/<name>`; `module:function`; or `module:source/<name>`, a source from outside.

    Args:
        name: the name.
        settings: as `wrap` takes them, for sources that do not know them; and `weights`, where some are asked for.

    Raises:
        UserError: for a name of no source, or whatever the source refuses.
    """
    source, slash, rest = name.partition("/")
    if source in SOURCES and slash:
        found = SOURCES[source]
        load: ModelSource = named(found, "source") if isinstance(found, str) else found
        return load(rest, **settings)
    if ":" in source and not slash:
        return function.load(name, **settings)
    if ":" in source:
        model = function.imported(source)(rest, **settings)
        if not isinstance(model, Model):
            raise UserError(f"model={name!r}: the source {source} gave a {type(model).__name__}; let it give a Model")
        return model
    there = ", ".join(f"{one}/…" for one in SOURCES)
    raise UserError(f"model={name!r} is not known{nearest(source, SOURCES)} (there are: {there}; {TAKES})")
