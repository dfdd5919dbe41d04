"""What every number in a forward pass sees of the image, followed from operation to operation.

A number sees an interval of rows and one of columns of the image, unclipped, as if the image went on beyond its border:
the receptive field's arithmetic of kernels, strides, padding and dilation. The intervals stand once in a ledger; beside
every tensor goes one of its shape that says which entry each number has. Whatever only moves numbers about, as windows,
shifted or merged patches and tokens do, is done to those entries, too.

Where numbers of several places meet, the interval holds all of them. Mixing of all positions, as a mean, attention's
weights or squeeze-and-excitation are, sees everything: that is no place, and whatever it is added to keeps its own.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from invariance.models.windows import WINDOWS, straight

_NONE = 0
"""The entry of what sees no place."""

_SAME = {"clone", "_to_copy", "contiguous", "detach", "alias", "lift_fresh", "copy", "_conj"}
_SHAPING = {"view", "_unsafe_view", "_reshape_alias", "reshape", "view_copy"}
_MOVING = set(
    "cat stack roll flip index_select index gather take_along_dim repeat expand_copy tile rot90 pixel_shuffle "
    "pixel_unshuffle channel_shuffle native_channel_shuffle repeat_interleave permute_copy split_copy "
    "split_with_sizes_copy".split()
)
_REDUCING = set("mean sum amax amin max min prod var std var_mean logsumexp linalg_vector_norm norm median".split())
_PADDING = {"constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
_PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "matmul": (0, 1)}
_KEEPING = re.compile("norm|softmax|dropout|relu|swish|silu|gelu|mish|elu|sigmoid|tanh")
"""Operations that change numbers where they are, whatever else they are called."""

Entries = Tensor
"""Of a tensor's shape, int64: which entry of the ledger each number has; 0 for none."""


class Ledger:
    """Intervals of the image, an entry a line: first and last row, rows to the next, and the same of columns."""

    def __init__(self) -> None:
        self.lines = torch.full((1, 6), torch.nan, dtype=torch.float64)

    def enter(self, lines: Tensor) -> Entries:
        """New entries (n, 6), (n,)."""
        first = len(self.lines)
        self.lines = torch.cat([self.lines, lines])
        return torch.arange(first, len(self.lines))

    def grid(self, axes: Sequence[Tensor]) -> Entries:
        """New entries of a grid (H, W) whose rows are (H, 3) and columns (W, 3)."""
        rows, columns = axes
        lines = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns[None].expand(len(rows), -1, -1)], dim=2)
        return self.enter(lines.reshape(-1, 6)).reshape(len(rows), len(columns))

    def union(self, a: Entries, b: Entries) -> Entries:
        """Entries that see what both do, broadcast."""
        if a is b:
            return a
        a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        both = (a != b) & (a != _NONE) & (b != _NONE)
        found = torch.where(a == _NONE, b, a)
        if not bool(both.any()):
            return found
        pairs, inverse = torch.unique(torch.stack([a[both], b[both]]), dim=1, return_inverse=True)
        found = found.clone()
        found[both] = self._around(self.lines[pairs], pairs)[inverse]
        return found

    def reduced(self, entries: Entries, dims: Sequence[int]) -> Entries | None:
        """Entries that see what all along some dimensions do, these left out; None if that is everything for all."""
        dims = sorted(dim % entries.ndim for dim in dims)
        kept = [dim for dim in range(entries.ndim) if dim not in dims]
        lines = entries.permute(*kept, *dims).reshape(*(entries.shape[dim] for dim in kept), -1)
        most = lines.amax(-1)
        least = torch.where(lines == _NONE, most[..., None], lines).amin(-1)
        if bool((most == least).all()):
            return most
        flat = lines.reshape(-1, lines.shape[-1])
        rows, inverse = torch.unique(flat, dim=0, return_inverse=True)
        found = self._around(self.lines[rows].transpose(0, 1), rows.T)
        seen = self.lines[found[found != _NONE]]
        if len(seen) < 1 or bool((seen == seen[:1]).all()):
            return None
        return found[inverse].reshape(most.shape)

    def _around(self, lines: Tensor, entries: Entries) -> Entries:
        """Entries that hold several each: lines (k, n, 6) of entries (k, n), which stay themselves where all agree."""
        none = entries == _NONE
        last, first = (torch.where(none[..., None], bound, lines) for bound in (-torch.inf, torch.inf))
        low, high = first.amin(0), last.amax(0)
        around = torch.stack([low[:, 0], high[:, 1], high[:, 2], low[:, 3], high[:, 4], high[:, 5]], dim=1)
        own = entries.amax(0)
        new = (around != self.lines[own]).any(1) & (own != _NONE)
        found = own.clone()
        found[new] = self.enter(around[new])
        return found


class Sight(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is seen of the images while it is on.

    Attributes:
        ledger: the intervals.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self._entries: Any = WeakTensorKeyDictionary()
        self._lost: Any = WeakTensorKeyDictionary()
        self._filled: dict[int, tuple[Tensor, Entries]] = {}

    def begin(self, x: Tensor) -> None:
        """Let images (B, C, H, W) see their own pixels."""
        axes = []
        for length in x.shape[2:]:
            place = torch.arange(length, dtype=torch.float64)
            axes.append(torch.stack([place, place, torch.ones_like(place)], dim=1))
        self._entries[x] = self.ledger.grid(axes).expand(x.shape)

    def of(self, value: Tensor) -> Entries | None:
        """The entries of a tensor; None: it sees no place."""
        entries: Entries | None = self._entries.get(value)
        return entries

    def lost(self, value: Tensor) -> str:
        """The operation behind which it is not known what a tensor sees; empty where nothing was lost."""
        operation: str = self._lost.get(value, "")
        return operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run an operation, and follow what it does to places."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = list(_tensors((args, kwargs)))
        for one in tensors if self._filled else ():
            self._look_up(one)
        if any(one in self._entries or one in self._lost for one in tensors):
            self._follow(func, args, kwargs, out, tensors)
        return out

    def _look_up(self, value: Tensor) -> None:
        """Take the entries of a tensor from what was copied into its memory."""
        if value not in self._entries and (there := self._filled.get(value.untyped_storage().data_ptr())) is not None:
            self._entries[value] = there[1].as_strided(value.shape, value.stride(), value.storage_offset())

    def _fill(self, target: Tensor, source: Tensor) -> None:
        """Copy entries to a part of a tensor that is filled piece by piece, as padding in circles is."""
        storage = target.untyped_storage()
        count = storage.nbytes() // max(1, target.element_size())
        # the tensor is held, so that nothing else comes to its memory
        _, flat = self._filled.setdefault(storage.data_ptr(), (target, torch.zeros(count, dtype=torch.int64)))
        part = flat.as_strided(target.shape, target.stride(), target.storage_offset())
        part.copy_(self._entries[source].expand(target.shape))
        self._entries[target] = part

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any, tensors: list[Tensor]) -> None:  # noqa: ANN401
        name = func._schema.name.partition("::")[2]
        if name == "copy_":
            if args[1] in self._entries:
                self._fill(args[0], args[1])
            return
        given = _named(func, args, kwargs)
        if name.endswith("_") and not name.endswith("__"):  # in place: its first argument is what it gives
            name, out = name[:-1], tensors[0]
        outs = [one for one in _tensors(out) if one.is_floating_point()]
        lost = next((self._lost[one] for one in tensors if one in self._lost), "")
        found: list[Entries | None] = [None]
        if any(one in self._entries for one in tensors) and outs:
            try:
                found = self._places(func, name, given, args, kwargs, tensors, outs)
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
                found, lost = [None], lost or name
            if found == ["unknown"]:
                found, lost = [None], lost or name
        for k, one in enumerate(outs):
            entries = found[k] if k < len(found) else None
            self._entries.pop(one, None)
            self._lost.pop(one, None)
            if entries is not None and bool((entries != _NONE).any()):
                self._entries[one] = entries.expand(one.shape)
            elif lost:
                self._lost[one] = lost

    def _places(
        self,
        func: Any,  # noqa: ANN401
        name: str,
        given: dict[str, Any],
        args: Any,  # noqa: ANN401
        kwargs: Any,  # noqa: ANN401
        tensors: list[Tensor],
        outs: list[Tensor],
    ) -> list[Any]:
        """The entries of what an operation gives; ["unknown"] for one that is not known here."""
        first = next(one for one in tensors if one in self._entries)
        own = self._entries[first]
        if name in _SAME:
            return [own]
        if name in _SHAPING:  # what a view is of may lie in memory otherwise than its entries
            return [own.reshape(outs[0].shape)]
        if name in _MOVING or func.is_view and name != "as_strided":
            return self._moved(func, args, kwargs)
        if name in _PRODUCTS or name == "linear":
            return [self._product(name, args)]
        if name.startswith("_scaled_dot_product") or name == "_flash_attention_forward":
            query = self._of(args[0])
            return [None if query is None else self._along(query, -1).unsqueeze(-1).expand(outs[0].shape)]
        if name in _REDUCING and (dims := given.get("dim", given.get("dims"))) is not None:
            dims = [dims] if isinstance(dims, int) else list(dims) or list(range(first.ndim))
            left = self.ledger.reduced(own, dims)
            return [None if left is None else left.reshape(one.shape) for one in outs]
        if name in _REDUCING:
            return [None if outs[0].ndim == 0 else self._pointwise(tensors, outs[0])]
        if name in _PADDING:
            return [_padded(self.ledger, own, list(given["pad"] if "pad" in given else given["padding"]))]
        if (window := WINDOWS.get(name)) is not None:
            axes = window(self.axes(own), given, outs[0].shape[2:])
            return [None if axes is None else self.ledger.grid(axes).expand(outs[0].shape)]
        if torch.Tag.pointwise in func.tags or name in ("where", "lerp", "masked_fill"):
            return [self._pointwise(tensors, outs[0])]
        if _KEEPING.search(name) and outs[0].shape == first.shape:
            return [own]
        return ["unknown"]

    def _of(self, value: object) -> Entries | None:
        return self.of(value) if isinstance(value, Tensor) else None

    def _pointwise(self, tensors: list[Tensor], out: Tensor) -> Entries:
        found: Entries | None = None
        for entries in (self._entries[one] for one in tensors if one in self._entries):
            found = entries if found is None else self.ledger.union(found, entries)
        assert found is not None
        return found.expand(out.shape)

    def _moved(self, func: Any, args: Any, kwargs: Any) -> list[Entries]:  # noqa: ANN401
        """Do to the entries what is done to the numbers."""

        def swapped(one: Any) -> Any:  # noqa: ANN401
            """An argument with entries in the place of numbers."""
            if isinstance(one, Tensor):
                entries = self._of(one)
                if entries is not None:
                    return entries.to(torch.float64)  # some are not there for whole numbers
                return torch.zeros(one.shape, dtype=torch.float64) if one.is_floating_point() else one.cpu()
            return type(one)(map(swapped, one)) if isinstance(one, list | tuple) else one

        moved = func(*swapped(args), **{key: swapped(one) for key, one in kwargs.items()})
        return [one.to(torch.int64) for one in _tensors(moved)]

    def _along(self, entries: Entries, dim: int) -> Entries:
        left = self.ledger.reduced(entries, [dim])
        kept = [length for k, length in enumerate(entries.shape) if k != dim % entries.ndim]
        return torch.zeros(kept, dtype=torch.int64) if left is None else left

    def _product(self, name: str, args: Any) -> Entries | None:  # noqa: ANN401
        """A product's rows are of the places of its left side, such as queries; without any, of those of its right."""
        if name == "linear":
            left, right = self._of(args[0]), None
            return None if left is None else self._along(left, -1).unsqueeze(-1)
        left, right = (self._of(args[k]) for k in _PRODUCTS[name])
        found = None if left is None else self._along(left, -1).unsqueeze(-1)
        if found is not None and bool((found != _NONE).any()) or right is None:
            return found
        return self._along(right, -2).unsqueeze(-2)

    def axes(self, entries: Entries) -> list[Tensor]:
        """Rows (H, 3) and columns (W, 3) of what is seen by a map (B, C, H, W).

        Raises:
            ValueError: if it is no grid.
        """
        planes = entries.reshape(-1, *entries.shape[-2:])
        plane = planes[0]
        if not bool((planes == plane).all()):
            for other in torch.unique(planes, dim=0):
                plane = self.ledger.union(plane, other)
        lines = self.ledger.lines[plane]
        rows, columns = lines[:, :1, :3], lines[:1, :, 3:]
        if not (bool((lines[..., :3] == rows).all()) and bool((lines[..., 3:] == columns).all())):
            raise ValueError("no grid")
        return [straight(rows[:, 0]), straight(columns[0])]


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """The tensors in arguments, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
    """The arguments of an operation by their names, defaults included."""
    given = {}
    for k, argument in enumerate(func._schema.arguments):
        value = args[k] if k < len(args) else kwargs.get(argument.name, getattr(argument, "default_value", None))
        given[argument.name] = value
    return given


def _padded(ledger: Ledger, entries: Entries, pad: list[int]) -> Entries:
    """Entries that are continued beyond the ends of dimensions, the last first; what is below 0 is cut off."""
    for k in range(len(pad) // 2):
        dim, (before, after) = entries.ndim - 1 - k, pad[2 * k : 2 * k + 2]
        length = entries.shape[dim]
        inner = entries.narrow(dim, max(0, -before), length - max(0, -before) - max(0, -after))
        ends = [_beyond(ledger, inner, dim, -1, max(0, before)), _beyond(ledger, inner, dim, 1, max(0, after))]
        entries = torch.cat([ends[0], inner, ends[1]], dim)
    return entries


def _beyond(ledger: Ledger, entries: Entries, dim: int, way: int, count: int) -> Entries:
    """So many entries beyond the beginning (−1) or the end (1) of a dimension."""
    length = entries.shape[dim]
    edge, before = (entries.select(dim, place % length) for place in ((0, 1) if way < 0 else (-1, -2)))
    if not count or length < 2:  # of one alone it is not known where it goes on
        return torch.zeros_like(edge).unsqueeze(dim).repeat_interleave(count, dim)
    pairs, inverse = torch.unique(torch.stack([edge.flatten(), before.flatten()]), dim=1, return_inverse=True)
    lines = ledger.lines[pairs]
    found = []
    for k in range(1, count + 1):
        new = ledger.enter(lines[0] + k * (lines[0] - lines[1]))
        new[(pairs == _NONE).any(0)] = _NONE
        found.append(new[inverse].reshape(edge.shape))
    return torch.stack(found if way > 0 else found[::-1], dim)
