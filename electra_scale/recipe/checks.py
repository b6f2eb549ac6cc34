"""Checks that several sections of a recipe make."""

from __future__ import annotations


def too_small(section: str, settings: object, **least: int) -> list[str]:
    """A sentence for each setting of a section that is below the least value that it may have."""
    return [
        f"{section}.{name} is {getattr(settings, name)}; it must be at least {value}"
        for name, value in least.items()
        if getattr(settings, name) < value
    ]
