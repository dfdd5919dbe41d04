"""What is a network invariant to, and what does it merely keep track of?

Tensmeyer & Martinez, "Improving Invariance and Equivariance Properties of Convolutional Neural Networks" (2016), as a
pipeline (prepare, train, measure, report), and as functions for any network at any layer:

- `wrap`, `load_model`: a network with its preprocessing; `list_layers`: where it can be measured.
- `load_images`: images from arrays, a Dataset or a folder.
- `measure_model`: invariance and equivariance under families of transformations, as a table that plots itself.
- `compare_models`: how far apart two representations are.
- `load`: results that were kept.
- The families (`Rotation`, `Blur`, …), the solvers (`Ridge`, `Procrustes`, `OnlineSGD`, `MinibatchSGD`), `UserError`.

Names are imported when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from invariance.version import __version__

_PUBLIC = {
    "Model": "models.model",
    "wrap": "models.model",
    "load_model": "training.loading",
    "list_layers": "models.layers",
    "load_images": "data.given",
    "measure_model": "engine.notebook",
    "compare_models": "engine.between",
    "Results": "engine.results",
    "load": "engine.results",
    "Transform": "transforms.base",
    "Blur": "transforms.blur",
    "ColorJitter": "transforms.color_jitter",
    "Crop": "transforms.crop",
    "Elastic": "transforms.elastic",
    "Mirror": "transforms.mirror",
    "Noise": "transforms.noise",
    "Perspective": "transforms.perspective",
    "Rotation": "transforms.rotation",
    "Shear": "transforms.shear",
    "Ridge": "maps.ridge",
    "Procrustes": "maps.procrustes",
    "OnlineSGD": "maps.online_sgd",
    "MinibatchSGD": "maps.minibatch",
    "UserError": "errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:  # what tools that read types see; the names are imported by `__getattr__`
    from invariance.data.given import load_images
    from invariance.engine.between import compare_models
    from invariance.engine.notebook import measure_model
    from invariance.engine.results import Results, load
    from invariance.errors import UserError
    from invariance.maps.minibatch import MinibatchSGD
    from invariance.maps.online_sgd import OnlineSGD
    from invariance.maps.procrustes import Procrustes
    from invariance.maps.ridge import Ridge
    from invariance.models.layers import list_layers
    from invariance.models.model import Model, wrap
    from invariance.training.loading import load_model
    from invariance.transforms.base import Transform
    from invariance.transforms.blur import Blur
    from invariance.transforms.color_jitter import ColorJitter
    from invariance.transforms.crop import Crop
    from invariance.transforms.elastic import Elastic
    from invariance.transforms.mirror import Mirror
    from invariance.transforms.noise import Noise
    from invariance.transforms.perspective import Perspective
    from invariance.transforms.rotation import Rotation
    from invariance.transforms.shear import Shear


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """A public name, imported now."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *__all__})
