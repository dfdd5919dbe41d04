"""What every schema is, and the one line that its errors become."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from invariance.errors import UserError, nearest, shown


class Settings(BaseModel):
    """A part of a configuration: no key beside its own, no type for another, no NaN, never changed.

    A field's `description` is what a message tells to give instead; without one it is made from type and bounds.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), populate_by_name=True
    )


Kind = TypeVar("Kind", bound=Settings)


def checked(kind: type[Kind], values: object, where: str = "") -> Kind:
    """Values, checked against their schema.

    Args:
        kind: the schema.
        values: plain containers.
        where: the key that the values stand under; empty at the top.

    Raises:
        UserError: for the first value that does not fit, in one line.
    """
    if not isinstance(values, Mapping):
        given = where or "the configuration"
        raise UserError(f"{given}={shown(values)}: give its keys ({', '.join(keys_of(kind))})")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(told(kind, error, values, where)) from None


def told(kind: type[Settings], error: ValidationError, values: object, where: str) -> str:
    """What to tell of pydantic's errors: of a key that there is not, else of the first value.

    Args:
        kind: the schema.
        error: pydantic's.
        values: what was checked.
        where: the key that it stands under.
    """
    found = error.errors(include_url=False, include_input=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return str(cause)
    path, field, inside = _walk(kind, first["loc"])
    name = ".".join([part for part in (where, *path) if part])
    if first["type"] == "extra_forbidden" and inside is not None:
        key = str(first["loc"][len(path)]) if len(first["loc"]) > len(path) else "?"
        known = keys_of(inside)
        return f"unknown key {f'{name}.{key}' if name else key}{nearest(key, known)} (there are: {', '.join(known)})"
    expected = (field and expected_of(field)) or "give another value"
    if first["type"] == "missing":
        return f"{name} is missing: {expected}"
    value = _at(values, path)
    if isinstance(value, list) and len(first["loc"]) > len(path) and isinstance(k := first["loc"][-1], int):
        name, value = f"{name}[{k}]", value[k]
    said = f"{expected} ({cause})" if cause is not None else expected
    choices = [] if field is None else choices_of(field.annotation)
    hint = nearest(value, choices) if isinstance(value, str) and value not in choices else ""
    return f"{name}={shown(value)}: {said}{hint}"


def keys_of(kind: type[Settings]) -> list[str]:
    """The keys of a schema, as a configuration has them."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def choices_of(annotation: object) -> list[str]:
    """The texts that a type takes, where it takes only some."""
    if get_origin(annotation) is Literal:
        return [one for one in get_args(annotation) if isinstance(one, str)]
    return [choice for part in get_args(annotation) for choice in choices_of(part)]


def expected_of(field: FieldInfo) -> str:
    """What to give for a field: its description, else what its type and bounds say."""
    if field.description:
        return field.description
    parts = _parts(field.annotation)
    null = ", or null" if type(None) in parts else ""
    kind = next((part for part in parts if part is not type(None)), None)
    if choices := choices_of(kind):
        return f"choose {' or '.join(choices) if len(choices) == 2 else 'one of ' + ', '.join(choices)}{null}"
    if kind is bool:
        return f"give true or false{null}"
    if inside := _schema(kind):
        return f"give its keys ({', '.join(keys_of(inside))}){null}"
    about = _metadata(field)
    bounds = {key: getattr(one, key) for one in about for key in ("ge", "gt", "le", "lt") if hasattr(one, key)}
    whole = "whole " if kind is int else ""
    low = f" from {bounds['ge']}" if "ge" in bounds else f" above {bounds['gt']}" if "gt" in bounds else ""
    high = f" to {bounds['le']}" if "le" in bounds else f" to below {bounds['lt']}" if "lt" in bounds else ""
    return f"give a {whole}number{low}{high}{null}" if kind in (int, float) else f"give a text{null}"


def _parts(annotation: object) -> tuple[object, ...]:
    """The alternatives of a type."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for one in get_args(annotation) for part in _parts(one))
    if hasattr(annotation, "__metadata__"):
        return _parts(get_args(annotation)[0])
    return (annotation,)


def _metadata(field: FieldInfo) -> list[Any]:
    """What bounds a field, be it annotated itself or one of its alternatives."""
    found, waiting = list(field.metadata), [field.annotation]
    while waiting:
        one: Any = waiting.pop()
        for about in getattr(one, "__metadata__", ()):
            found += getattr(about, "metadata", [about])
        waiting += [part for part in get_args(one) if not isinstance(part, str)]
    return found


def _schema(annotation: object) -> type[Settings] | None:
    """The schema that a type is, or that one of its alternatives is."""
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Settings):
            return part
    return None


def _walk(
    kind: type[Settings], loc: tuple[int | str, ...]
) -> tuple[list[str], FieldInfo | None, type[Settings] | None]:
    """The keys down to the innermost field of a place, that field, and the schema below the last key."""
    path: list[str] = []
    field: FieldInfo | None = None
    inside: type[Settings] | None = kind
    for part in loc:
        fields = {} if inside is None else {one.alias or name: one for name, one in inside.model_fields.items()}
        if part not in fields:
            break
        path.append(str(part))
        field = fields[str(part)]
        inside = _schema(field.annotation)
    return path, field, inside


def _at(values: object, path: list[str]) -> object:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
