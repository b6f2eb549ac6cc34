"""Telling a document's language, through py3langid."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra

# A page of text decides; reading all of a book would cost far more and change nothing.
HEAD_CHARACTERS = 2000


def language_test(code: str) -> Callable[[str], bool]:
    """A function that says whether a text is in the language with this ISO 639-1 code.

    Only the first :data:`HEAD_CHARACTERS` characters of a text are looked at.

    Raises:
        UserError: py3langid is not installed, or it knows no language of this code.
    """
    with needs_extra("language", "py3langid", "clean.language", "leave it out"):
        import py3langid
    known = sorted(label for label, _ in py3langid.rank("text"))
    if code not in known:
        close = difflib.get_close_matches(code.lower(), known, n=5, cutoff=0.3) or known
        raise UserError(
            f"clean.language is {code!r}: it must be an ISO 639-1 code that py3langid knows, such as {', '.join(close)}"
        )

    def keeps(text: str) -> bool:
        label, _ = py3langid.classify(text[:HEAD_CHARACTERS])
        return bool(label == code)

    return keeps
