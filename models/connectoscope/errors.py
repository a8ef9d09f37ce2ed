"""The ways in which a run can end other than well, each with its exit code (docs/contracts.md, "Exit codes")."""

from __future__ import annotations

from collections.abc import Iterable


class ConnectoscopeError(Exception):
    """Ends a run with ``exit_code``; its text is one line for the user."""

    exit_code = 1


class UserError(ConnectoscopeError):
    """Wrong usage or unusable input: one line that says what is wrong and what to do."""

    exit_code = 2


class Unreadable(UserError):
    """Voxels that the input promises but does not give: a damaged file, a lost connection."""


class Corrupt(Unreadable):
    """Voxels whose bytes are there but damaged."""


class Unwritable(UserError):
    """A place that does not take what is made; its cause says why."""


class Taken(UserError):
    """The place of a result is that of another run's.

    Attributes:
        reason: What is there, and how the two differ; what to do is said by who can do it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}. Ask for the same again to resume it, choose another destination, or use --overwrite"
        )
        self.reason = reason


class SeveralVolumes(UserError):
    """Several volumes where one must be named.

    Attributes:
        choices: What each is opened as (``file.h5::/raw``), and what it is, for people.
    """

    def __init__(self, line: str, choices: Iterable[tuple[str, str]]) -> None:
        super().__init__(line)
        self.choices = tuple(choices)


class ColourImage(SeveralVolumes):
    """The samples of a pixel (red, green, blue), of which one must be named.

    Attributes:
        choices: As which channel each is opened (``0``), and its name.
    """


class Cancelled(ConnectoscopeError):
    """The user asked to stop; finished blocks are kept."""

    exit_code = 3


class Stopped(ConnectoscopeError):
    """Stopped half-way by the machine (memory, disk, network); resumable."""

    exit_code = 4
