"""Where what an engine computes goes: a recorder knows what is there, takes what is new, and hears how far it is."""

from typing import Generic, Protocol, TypeVar

Group = TypeVar("Group", contravariant=True)
Result = TypeVar("Result", contravariant=True)
G = TypeVar("G")
R = TypeVar("R")


class Recorder(Protocol[Group, Result]):
    """What an engine hands its results to, a group at a time; an engine skips the groups that are there already.

    A notebook's is `Listed`; a command's is a run directory with its parts, locks and provenance.
    """

    def has(self, group: Group) -> bool:
        """Whether what a group came to is there, so that it need not be computed."""

    def add(self, group: Group, result: Result) -> None:
        """Take what a group came to."""

    def note(self, done: int, of: int) -> None:
        """Hear that so many of all steps are done."""


class Listed(Generic[G, R]):
    """A recorder that keeps everything in memory, in the order in which it was computed.

    Attributes:
        groups: what was computed.
        results: what each came to.
    """

    def __init__(self) -> None:
        self.groups: list[G] = []
        self.results: list[R] = []

    def has(self, group: G) -> bool:
        """See `Recorder`."""
        return group in self.groups

    def add(self, group: G, result: R) -> None:
        """See `Recorder`."""
        self.groups.append(group)
        self.results.append(result)

    def note(self, done: int, of: int) -> None:
        """Nobody to tell."""
