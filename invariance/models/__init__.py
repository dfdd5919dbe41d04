"""Networks, and φ and C of any of them."""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from invariance.device import require
from invariance.errors import UserError, nearest


def build_model(config: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    """A network from its configuration (`conf/model/`): `_target_` inside `invariance.`, the rest its arguments.

    Raises:
        UserError: for a target outside the package, an argument the network does not take, or a network that does not
            fit into this machine's memory.
    """
    if torch.get_default_device().type != "meta":  # where shapes alone are asked for, nothing is allocated
        outline(config, num_classes, channels)
    return _made(*_parts(config), num_classes, channels)


def outline(config: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    """The network without its weights, on torch's device `meta`: names and shapes alone, and nothing is allocated.

    Raises:
        UserError: as `build_model`.
    """
    target, arguments = _parts(config)
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _NothingDrawn():
        network = _made(target, arguments, num_classes, channels)
    needed = sum(one.numel() * one.element_size() for one in (*network.parameters(), *network.buffers()))
    _require(needed, target, arguments)
    return network


def _parts(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the class, and its arguments."""
    return str(config.get("_target_")), {key: value for key, value in config.items() if key != "_target_"}


class _NothingDrawn(TorchFunctionMode):
    """Leaves weights that are only shapes as they are: to draw them there, torch imports its compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))


def _require(needed: int, target: str, arguments: Mapping[str, Any]) -> None:
    name = target.rpartition(".")[2]
    settings = ", ".join(f"model.{key}={value}" for key, value in arguments.items())
    require(needed, f"model: {name} with {settings}", "make it smaller")


def _made(target: str, arguments: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    factory = _factory(target, arguments)
    try:
        return factory(num_classes=num_classes, channels=channels, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        if sizes := re.search(r"overflowed with sizes=\[([\d, ]+)\]", str(error)):  # more bytes than 63 bits count
            _require(4 * math.prod(map(int, sizes[1].split(","))), target, arguments)
        why = " ".join(str(error).split())[:200]
        raise UserError(f"model: {target} cannot be made with these settings ({why})") from error


def _factory(target: str, arguments: Mapping[str, Any]) -> type[nn.Module]:
    """The class of that name, to which all arguments are known."""
    if not target.startswith("invariance."):
        raise UserError(f"model._target_={target!r} is outside invariance; only its own classes are built from a file")
    module, _, name = target.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model._target_={target!r} does not exist") from error
    if not inspect.isclass(factory) or not issubclass(factory, nn.Module):
        raise UserError(f"model._target_={target!r} is no network; name a class of torch modules")
    parameters = inspect.signature(factory).parameters
    if not {"num_classes", "channels"} <= set(parameters):
        raise UserError(f"model._target_={target!r} is no network of images: it takes no num_classes and channels")
    known = [key for key in parameters if key not in ("num_classes", "channels")]
    for key in arguments:
        if key not in known:
            raise UserError(f"model.{key} is no argument of {name}{nearest(key, known)} (it has: {', '.join(known)})")
    for key in known:
        if parameters[key].default is inspect.Parameter.empty and key not in arguments:
            raise UserError(f"model.{key} is not set, and {name} needs it; set it on the command line: model.{key}=…")
    return factory
