"""Names that come from what a row says: never from its position, never from chance."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from manifests.schema import MANIFEST

NOT_PART = ("id", "priority")  # of what a row is: when it is made does not change the video
MAX_SAFE_ID = 80  # characters; with the hashes a file name stays far below the 255 bytes of any file system

# What a cell of a spreadsheet must not begin with; also as wide signs, which some turn into these.
FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters by their category that show nothing


def is_invisible(sign: str) -> bool:
    """Does `sign` show nothing, or change how others are shown? Such as writing from right to left, zero width."""
    return unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") or sign in _BLANK_LETTERS


def default_id(row: Mapping[str, Any]) -> str:
    """`{portrait stem}_{audio stem}_{8 hex}`: the hash covers the manifest columns that the row fills in.

    Columns left empty do not count, so a manifest keeps its ids when the schema learns a new column.
    """
    words = {c.name: row[c.name] for c in MANIFEST if c.name not in NOT_PART and row.get(c.name) is not None}
    return f"{_word(words.get('portrait'))}_{_word(words.get('audio'))}_{content_id(words)[:8]}"


def content_id(parts: Mapping[str, object]) -> str:
    """32 hex characters: SHA-256 of `parts` as canonical JSON. The order of keys does not matter.

    Raises TypeError or ValueError for what JSON cannot hold, such as NaN.
    """
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _digest(canonical)[:32]


def file_stem(id: str, content_id: str) -> str:
    """`{safe id}-{first 16 of content_id}`: one short, harmless file name from any id."""
    return f"{safe_name(id)}-{content_id[:16]}"


def video_stem(name: str, content_id: str) -> str:
    """The same with the folders that `name` puts before it, each as short and harmless: `de/anna`."""
    *folders, last = [part for part in name.split("/") if part.strip()] or ["video"]
    return "/".join([*map(safe_name, folders), file_stem(last, content_id)])


def safe_name(text: str) -> str:
    """One short, harmless file name from any text.

    A text that had to be changed also gets 6 characters of its hash, so that different ones never share a name.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:MAX_SAFE_ID].strip(".-") or "video"
    return safe if safe == text else f"{safe}-{_digest(text)[:6]}"


def _word(reference: str | None) -> str:
    """A file's name without its suffix, as an id may begin."""
    seen = "".join(sign for sign in _stem(reference) if not is_invisible(sign))
    return seen.lstrip("".join(FORMULA_SIGNS) + " ") or "unknown"


def _stem(reference: str | None) -> str:
    # An address may end in ?signature=...: no part of a name. A local file may have a question mark in its own.
    path = urlsplit(reference).path if reference and "://" in reference else reference
    return PurePosixPath(path or "").stem or "unknown"


def _digest(text: str) -> str:
    # Ids may hold what UTF-8 cannot, such as half a surrogate pair.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
