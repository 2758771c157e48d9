"""Text without credentials: for messages, logs and tables, which outlive the run and are read by others."""

import json
import os
import re
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
SHORTEST_SECRET = 6  # characters; a shorter value would be found in harmless words

# Values of these are hidden wherever they appear.
SECRET_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET"),
    "STABLEAVATAR_WEBHOOK_SECRET",
)

_NAME = r"(?:[\w.]{0,60}[-_.])?(?:signature|sig|token|key|secret|password|passwd|pwd|credentials?|auth|access_?key_?id)"
_NAME = rf"(?:x-(?:amz|goog)-[\w-]{{1,60}}|AWSAccessKeyId|GoogleAccessId|(?:api|access|account|secret)key|{_NAME})"
_HIDDEN = r"\*{3}(?!\w)|"  # by an earlier call, which text was put behind since then
_PATTERNS = (
    # user:password@ of an address. The host begins after the last @ before the path.
    (re.compile(r"(://)[^/\s\"'<>?#]+@"), rf"\1{HIDDEN}@"),
    # ?token=value, also where the address was itself encoded into another one
    (re.compile(rf"((?:[?&;]|%3F|%26){_NAME}(?:=|%3D))(?:{_HIDDEN}[^&;\s\"'<>#]+)", re.IGNORECASE), rf"\1{HIDDEN}"),
    # what libraries quote of configurations and of headers
    (
        re.compile(
            r"\b((?:aws_)?(?:secret_access_key|session_token|access_key_id)|AccountKey|SharedAccessSignature"
            r"|Signature|Credential|password)(\"?'?\s{0,3}[=:]\s{0,3}\"?'?)"
            rf"(?:{_HIDDEN}[^\s,;&\"'<>)}}]+)",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\bwhsec_[\w+/=-]{6,}"), HIDDEN),
)


def redacted(text: str) -> str:
    """`text` with every credential in it replaced by `***`. Doing it twice changes nothing."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) > SHORTEST_SECRET:
            text = text.replace(value, HIDDEN).replace(quote(value, safe=""), HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted_values(value: Any) -> Any:
    """`value`, a cell or a whole row, with every text in it redacted, also inside JSON that a text holds.

    Text that is JSON stays JSON, as it would not if it were redacted as a whole: a credential may end at a backslash
    that belongs to the writing.
    """
    if isinstance(value, dict):
        return {redacted(name) if isinstance(name, str) else name: _named(name, cell) for name, cell in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(cell) for cell in value]
    return _text(value) if isinstance(value, str) else value


def _named(name: Any, value: Any) -> Any:
    """A value of an object, of which the name may tell that it is a credential: `password`."""
    if not isinstance(value, str):
        return redacted_values(value)
    text, start = redacted(f"{name}={value}"), f"{name}="
    return HIDDEN if text == f"{start}{HIDDEN}" else _text(value)


def _text(text: str) -> str:
    if not text.lstrip().startswith(("{", "[")):
        return redacted(text)
    try:
        value = json.loads(text)
        hidden = redacted_values(value)
        return text if hidden == value else json.dumps(hidden, ensure_ascii=False)
    except (ValueError, RecursionError):  # no JSON, or none that anyone reads
        return redacted(text)
