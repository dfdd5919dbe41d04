"""Texts whose nesting explodes, refused before anything is made of them: JSON, YAML and values of a command line."""

import json
from typing import Any

import yaml

from invariance.errors import UserError

DEEPEST, LARGEST, LONGEST, LETTERS = 50, 100_000, 30_000, 5_000_000
"""How deep YAML and values may be nested; how many things YAML may hold, aliases written out; letters of a value typed,
and of YAML."""


def load_json(text: str | bytes) -> Any:  # noqa: ANN401
    """`json.loads`, for which too deep a nesting is a mistake in the text like any other.

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_yaml(text: str) -> Any:  # noqa: ANN401
    """`yaml.safe_load`, of a text that `check_yaml` lets pass.

    Raises:
        UserError: for what that refuses.
        yaml.YAMLError: if it is no YAML.
    """
    check_yaml(text, "it")
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (LookupError, AttributeError, TypeError) as error:  # "!!bool maybe", a tag that its value does not suit
        raise yaml.YAMLError(str(error)) from error


def check_yaml(text: str, name: str) -> None:
    """Refuse YAML that would take no end of memory, time or stack: by its events, before anything is made of them.

    What is no YAML at all passes: whoever loads it says where.

    Args:
        text: the YAML.
        name: what to call it in the message.

    Raises:
        UserError: if it is nested too deeply, an alias names what it stands in, or aliases written out make it huge.
    """
    if len(text) > LETTERS:
        raise UserError(f"{name} has {len(text)} letters, and up to {LETTERS} are read; make it smaller")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor, and things before it
    things = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            anchor = getattr(event, "anchor", None)
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == one for one, _ in opened):
                    raise UserError(f"{name}, line {line}: *{anchor} names what it stands in; write it out")
                things += sizes.get(str(anchor), 1)
            elif isinstance(event, yaml.CollectionStartEvent):
                opened.append((anchor, things))
                things += 1
                if len(opened) > DEEPEST:
                    raise UserError(f"{name}, line {line}: nested more than {DEEPEST} deep; make it flatter")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = opened.pop()
                if anchor is not None:
                    sizes[anchor] = things - before
            elif isinstance(event, yaml.ScalarEvent):
                things += 1
                if anchor is not None:
                    sizes[anchor] = 1
            if things > LARGEST:
                raise UserError(f"{name}, line {line}: over {LARGEST} values, aliases written out; make it smaller")
    except (yaml.YAMLError, RecursionError):  # the parser may give up before its first event
        if (letters := _too_deep(text)) is not None:
            line = text.count("\n", 0, letters) + 1
            raise UserError(f"{name}, line {line}: nested more than {DEEPEST} deep; make it flatter") from None


def _too_deep(text: str) -> int | None:
    """Where the brackets of a text are nested too deeply; None if nowhere."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if depth > DEEPEST:
            return place
    return None


def check_value(override: str) -> None:
    """Refuse an override of a command line that would keep its parser busy without end.

    Args:
        override: as typed, `key=value`.

    Raises:
        UserError: if it is too long, or nested too deeply.
    """
    key, _, _ = override.partition("=")
    if len(override) > LONGEST:
        raise UserError(
            f"{key[:40]}=… has {len(override)} letters, and up to {LONGEST} are read; write it into a template"
        )
    if _too_deep(override) is not None:
        raise UserError(f"{key[:40]}=… is nested more than {DEEPEST} deep; make it flatter")
