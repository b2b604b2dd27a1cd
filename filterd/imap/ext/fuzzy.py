"""SEARCH=FUZZY: the key FUZZY, and RELEVANCY as a return option and to sort by. Specification: RFC 6203. Complete.

The key is read in ``search_keys``, does its work in ``fuzzy``; ``result`` and ``ext.sort`` show the scores.
"""

from __future__ import annotations

from filterd.imap.ext.base import Extension

FUZZY = Extension(6203, (b"SEARCH=FUZZY",))
