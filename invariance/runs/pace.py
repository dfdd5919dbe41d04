"""How fast a process works, as it tells those who watch its run."""

import math
import time
from typing import Any

_EVERY = 1.0


class Pace:
    """Work done since this process's first note, on its own clock; what earlier processes did makes no pace."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = -math.inf

    def noted(self, done: int, of: int, unit: str) -> dict[str, Any]:
        """What to write down of the work; nothing within a second of the last note, the end's apart.

        Args:
            done: how much is done, what earlier processes did included.
            of: how much there is.
            unit: what is counted.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        elif done < of and now - self._last < _EVERY:
            return {}
        self._last = now
        begun, first = self._first
        return {"done": done, "of": of, "unit": unit, "since": first, "seconds": round(now - begun, 2)}
