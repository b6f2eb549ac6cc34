"""What lies among the files of a source and is not read: counted by kind, each kind with an example."""

from __future__ import annotations

from data_pipeline.progress import counted

_LONGEST = 300


class PassedOver:
    """What a source's paths lead to and a build leaves out, by kind, in the order in which the kinds were met."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, what: str, why: str, location: str) -> None:
        """Note a ``what``, a singular noun, that is left out for the reason ``why``; once, however often it is met."""
        self._found.setdefault((what, why), {})[location] = None

    def lines(self) -> list[str]:
        """A sentence for each kind."""
        return [
            f"{counted(len(places), what)} left out ({why}): {'such as ' if len(places) > 1 else ''}"
            f"{shown(next(iter(places)))}"
            for (what, why), places in self._found.items()
        ]


def shown(name: str) -> str:
    """A file's name as a line can hold it: what can't be printed is spelled out, and a very long name is cut."""
    if not name.isprintable():
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}...{name[-_LONGEST // 2 :]}"
