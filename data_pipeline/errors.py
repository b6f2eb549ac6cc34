"""The exceptions that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OneRankError(UserError):
    """A UserError that one rank of a run meets, while the others know nothing of it: that rank reports it itself."""


class OtherRankError(OneRankError):
    """Another rank of a run has met an error and reports it; this one only ends with it."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
