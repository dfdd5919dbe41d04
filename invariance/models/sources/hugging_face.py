"""Models of Hugging Face's transformers, from a local folder or the Hub, with their image processor's preprocessing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.model import Model
from invariance.models.recipe import FILTERS, Normalise, Resize
from invariance.models.sources.building import Own, downloaded, line_of, model_of, optional
from invariance.models.sources.weights import Drawn, Weights, differences, drawing, fill
from invariance.seeds import generator

_EXTRA = "huggingface"
_CLASSIFIER = "ForImageClassification"
_TRIALS = ((251, 334), (397, 300))
"""Width and height of the pictures that a recipe is tried on: one upright, one not, odd and even."""


def load(
    name: str,
    *,
    weights: Drawn | Weights | None = None,
    preprocess: object = None,
    size: int | None = None,
    **settings: Any,  # noqa: ANN401
) -> Model:
    """A vision model of transformers; code that comes with weights is never run.

    Args:
        name: of a repository, as "google/vit-base-patch16-224", or a local folder, as "./folder" or "/data/folder",
            with config.json and preprocessor_config.json.
        weights: None: those of the repository or folder.
        preprocess: as `wrap` takes it; with `size`, no image processor is looked for.
        size: another side in pixels.
        settings: as `model_of` takes them.

    Raises:
        UserError: if transformers is not installed, the configuration, weights or image processor cannot be had or do
            not fit, and as `model_of`.
    """
    transformers = optional("transformers", _EXTRA)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # httpx', the Hub's and the library's own, of no common kind
        raise UserError(
            f"model=hugging_face/{name}: its config.json cannot be had ({line_of(error)}); name a folder that holds "
            "it, as hugging_face/./folder"
        ) from error
    classifier = any(_CLASSIFIER in one for one in config.architectures or ())
    seen = config if classifier else getattr(config, "vision_config", config)  # of CLIP its tower of vision
    kind = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
    module = _module(kind, seen, name, weights)
    resize, normalise = (None, None) if preprocess is not None and size is not None else _recipe(transformers, name)
    own = Own(
        module if classifier else Features(module),
        name.rstrip("/").rpartition("/")[2],
        resize,
        normalise,
        _classes(config) if classifier else None,
        int(config.num_labels) if classifier else 0,
    )
    return model_of(own, preprocess=preprocess, size=size, **settings)


class Features(nn.Module):
    """A network without classifier: its pooled features (B, D) in the place of logits.

    What the network pools; where it pools nothing, its first token, or the mean of a map.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D)."""
        answer = self.network(pixel_values=x)
        pooled: Tensor | None = getattr(answer, "pooler_output", None)
        if pooled is None:
            last: Tensor = answer.last_hidden_state
            pooled = last[:, 0] if last.ndim == 3 else last.mean((2, 3))
        return pooled.flatten(1)


def _module(kind: Any, config: Any, name: str, weights: Drawn | Weights | None) -> nn.Module:  # noqa: ANN401
    """The network with its weights, all of which are there."""
    with drawing(weights.seed if isinstance(weights, Drawn) else 0):
        if weights is None:
            return _pretrained(kind, config, name)
        try:
            module: nn.Module = kind.from_config(config, trust_remote_code=False, dtype=torch.float32)
        except ValueError as error:
            raise UserError(
                f"model=hugging_face/{name}: transformers has no such vision model ({line_of(error)})"
            ) from error
        if isinstance(weights, Weights):
            module = _filled(module, config, weights, name)
    return module


def _pretrained(kind: Any, config: Any, name: str) -> nn.Module:  # noqa: ANN401
    """The network as transformers loads it; layers for which there are no weights would be drawn at random."""

    def loaded(**more: object) -> tuple[nn.Module, list[str]]:
        """The network, and the names of weights that the checkpoint lacks or has in another shape."""
        module, told = downloaded(
            lambda: kind.from_pretrained(
                name, config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **more
            ),
            f"hugging_face/{name}",
        )
        return module, sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))

    module, missing = loaded()
    if missing and all("pooler." in one for one in missing):
        module, missing = loaded(add_pooling_layer=False)
    if missing:
        raise UserError(
            f"model=hugging_face/{name}: {len(missing)} of its weights are not in the checkpoint or are of another "
            f"shape (first: {missing[0]}); name a repository of the whole network"
        )
    return module


def _filled(module: nn.Module, config: Any, weights: Weights, name: str) -> nn.Module:  # noqa: ANN401
    """The module with given weights, which transformers may bring from the names of an older version into today's."""
    if weights.by == "name" and differences(module, weights.tensors):
        build: Callable[..., Any] = type(module).from_pretrained  # type: ignore[attr-defined]  # of transformers
        try:
            made, told = build(
                None, config=config, state_dict=dict(weights.tensors), dtype=torch.float32, output_loading_info=True
            )
            if not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
                return made  # type: ignore[no-any-return]
        except Exception:  # whatever transformers says of them, `fill` says how they differ
            pass
    fill(module, weights, f"hugging_face/{name}")
    return module


def _classes(config: Any) -> list[str] | None:  # noqa: ANN401
    """Names of the classes, where somebody named them."""
    names = [str(config.id2label[key]) for key in sorted(config.id2label)]
    return None if all(name == f"LABEL_{place}" for place, name in enumerate(names)) else names


def _recipe(transformers: Any, name: str) -> tuple[Resize, Normalise]:  # noqa: ANN401
    """What the model's image processor does, as a recipe that gives the same on trial pictures."""
    give = "give preprocess= and size="
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except Exception as error:  # httpx', the Hub's and the library's own, of no common kind
        raise UserError(
            f"model=hugging_face/{name}: its image processor cannot be had ({line_of(error)}); {give}"
        ) from error
    settings = processor.to_dict()
    normalise = _normalise(settings)
    for resize in _resizes(settings):
        if _agree(processor, resize, normalise):
            return resize, normalise
    raise UserError(
        f"model=hugging_face/{name}: its {type(processor).__name__} does more than resizing to a square, cropping, "
        f"rescaling and normalising; {give}"
    )


def _normalise(settings: Mapping[str, Any]) -> Normalise:
    """What a processor's settings say of numbers."""
    mean, std = (_numbers(settings.get(key)) for key in ("image_mean", "image_std"))
    if settings.get("include_top"):  # EfficientNet's divides by std once more
        std = tuple(one * one for one in std)
    normalises = bool(settings.get("do_normalize"))
    factor = settings.get("rescale_factor") if settings.get("do_rescale", True) else 1
    return Normalise(
        mean if normalises else (),
        std if normalises else (),
        float(f"{1 / float(factor or 1):.9g}"),
        -1.0 if settings.get("rescale_offset") else 0.0,
        bool(settings.get("do_flip_channel_order")),
    )


def _numbers(given: object) -> tuple[float, ...]:
    """One number, or one a channel."""
    return (float(given),) if isinstance(given, int | float) else tuple(map(float, given or ()))  # type: ignore[call-overload]


def _resizes(settings: Mapping[str, Any]) -> Iterator[Resize]:
    """What a processor's settings can mean for pictures: classes of processors take the same words differently."""
    crop = _side(settings.get("crop_size")) if settings.get("do_center_crop") else None
    filters = {int(value): name for name, value in FILTERS.items()}
    resample = settings.get("resample")
    filter_ = filters[2 if resample is None else int(resample)]
    if not settings.get("do_resize", True):
        if crop is not None:
            yield Resize("none", 0, crop, filter_, down=True)
        return
    side = _side(settings.get("size"))
    if side is None:
        return
    percent = settings.get("crop_pct")
    ways: list[tuple[Any, int, int | None]] = [("both", side, crop), ("shorter", side, crop), ("longer", side, crop)]
    if percent:  # ConvNeXt's and PoolFormer's
        ways += [("shorter", int(side / percent), side), ("shorter", int(side / percent), crop)]
    ways.append(("shorter", int(256 / 224 * side), crop))  # LeViT's
    for how, pixels, cut in ways:
        resize = Resize(how, pixels, cut, filter_, down=True)
        if resize.size is not None:
            yield resize


def _side(given: Any) -> int | None:  # noqa: ANN401
    """The one side in pixels that a processor's size tells; None where it tells two."""
    if isinstance(given, int):
        return given
    sides = {
        int(given[key]) for key in ("height", "width", "shortest_edge", "longest_edge") if given and given.get(key)
    }
    return sides.pop() if len(sides) == 1 else None


def _agree(processor: Any, resize: Resize, normalise: Normalise) -> bool:  # noqa: ANN401
    """Whether a recipe gives what a processor gives, to half an intensity on average: a pixel's shift is far more."""
    for width, height in _TRIALS:
        noise = torch.randint(0, 256, (12, 16, 3), generator=generator("trial picture"), dtype=torch.uint8)
        picture = Image.fromarray(noise.numpy()).resize((width, height), FILTERS["bicubic"])
        wanted = torch.as_tensor(processor(images=picture, return_tensors="pt")["pixel_values"])
        pixels = torch.from_numpy(np.array(resize(picture), np.float32)).permute(2, 0, 1)[None]
        got = normalise(pixels)
        unit = (normalise(pixels + 1) - got).abs().mean()
        if got.shape != wanted.shape or float((got - wanted).abs().mean()) > 0.5 * float(unit):
            return False
    return True
