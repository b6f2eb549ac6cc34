"""The exception whose message is written for the user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
