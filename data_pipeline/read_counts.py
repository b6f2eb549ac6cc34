"""What reading counts, whatever the kind of source."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class ReadCounts:
    """What reading met; ``bytes_read`` counts uncompressed bytes: whole lines of text and JSON Lines.

    ``oversized`` counts lines and documents too long to be held; ``skipped`` a dump's pages that are no articles:
    other namespaces, redirects, empty ones.
    """

    documents_read: int = 0
    bytes_read: int = 0
    bad_lines: int = 0
    oversized: int = 0
    skipped: int = 0
