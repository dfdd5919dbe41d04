"""The jobs of a sweep: the product of what its overrides sweep over, a family's own ranges included."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from invariance.errors import UserError
from invariance.settings.files import typed_sweep

MOST_JOBS = 100_000
"""Above the jobs of any sweep; the largest of the paper has 35."""


def jobs_of_sweep(overrides: list[Override]) -> list[list[str]]:
    """Every job's overrides.

    Args:
        overrides: the sweep's, parsed.

    Raises:
        UserError: for a value that is there twice, more jobs than any sweep has, or none.
    """
    parts = list(_by_family(overrides))
    if sum(math.prod(map(_values, part)) for part in parts) > MOST_JOBS:
        raise UserError(f"{_told(overrides)}: these are more than {MOST_JOBS:,} jobs; sweep over fewer values")
    _refuse_repeats(overrides)
    jobs = [list(map(_typed, job)) for part in parts for job in BasicSweeper.split_arguments(part, None)[0]]
    if not jobs:
        raise UserError(f"{_told(overrides)}: this names nothing, so there is no job to run")
    return jobs


def _typed(text: str) -> str:
    """An override, or a value, as a person types it: Hydra puts a backslash before the colon of mine:Family."""
    return text.replace("\\:", ":") if re.fullmatch(r"([\w./]+=)?[\w.]+\\:\w+", text) else text


def _refuse_repeats(overrides: Sequence[Override]) -> None:
    """Refuse a value that is swept over twice: two jobs would work at the same run.

    Raises:
        UserError: naming it.
    """
    for override in {one.get_key_element(): one for one in overrides}.values():  # the last of a key counts
        counts = Counter(override.sweep_string_iterator() if override.is_discrete_sweep() else ())
        if twice := [value for value, count in counts.items() if count > 1]:
            raise UserError(
                f"{override.input_line}: {', '.join(twice)} {'is' if len(twice) == 1 else 'are'} there more than once, "
                "and two jobs would be the same; write each value once"
            )


def _values(override: Override) -> int:
    """How many values an override sweeps over, counted without making them."""
    value = override.value()
    if not isinstance(value, RangeSweep):
        return sum(1 for _ in override.sweep_string_iterator()) if override.is_discrete_sweep() else 1
    start, stop, step = value.start or 0, value.stop or 0, value.step
    if not step:
        raise UserError(f"{override.input_line}: a step of 0 leads nowhere; give another")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return max(0, -((start - stop) // step))
    try:
        return max(0, math.ceil((stop - start) / step))
    except (OverflowError, ValueError):  # infinite, or no number
        return MOST_JOBS + 1


def _told(overrides: Sequence[Override]) -> str:
    """The overrides that are swept over, as they were given."""
    return " ".join(override.input_line or "" for override in overrides if override.is_sweep_override())


def _by_family(overrides: list[Override]) -> Iterator[list[Override]]:
    chosen = [override for override in overrides if override.get_key_element() == "transform"]
    if not chosen:
        yield overrides
        return
    others = [override for override in overrides if override.get_key_element() != "transform"]
    named = {override.get_key_element() for override in others}
    last = chosen[-1]
    written = list(last.sweep_string_iterator()) if last.is_sweep_override() else [last.get_value_element_as_str()]
    for family in map(_typed, written):
        own = [f"{key}={','.join(values)}" for key, values in typed_sweep(family).items() if key not in named]
        parsed = OverridesParser.create().parse_overrides([f"transform={family}", *own])
        yield [*parsed, *others]
