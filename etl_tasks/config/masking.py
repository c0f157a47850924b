"""Hide passwords inside longer texts: URLs, connection strings, headers, assignments."""

from __future__ import annotations

import re

HIDDEN = "***"

_WORD = r"(?:[A-Za-z0-9_]*(?:password|passwd|secret)|pwd|flower_basic_auth)"  # what such names end in
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # scheme://user:password@host; an @ inside the password belongs to it, so the last one before the path counts.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/?#:@'\"]*):[^\s/?#'\"]*@"), rf"\1:{HIDDEN}@"),
    # The same with a character in the password that ends an authority when it is not encoded ("p/w", "p#w").
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/?#:@'\"]*):(?!\d+[/?#])[^\s@'\"]+@"), rf"\1:{HIDDEN}@"),
    # password=…, password: …, "password": "…", in connection strings, query strings, JSON and Python alike.
    (re.compile(rf"(?i)(\b{_WORD}['\"]?\s*[=:]\s*)'(?:[^'\\]|\\.)*'"), rf"\1'{HIDDEN}'"),
    (re.compile(rf'(?i)(\b{_WORD}[\'"]?\s*[=:]\s*)"(?:[^"\\]|\\.)*"'), rf'\1"{HIDDEN}"'),
    (re.compile(rf"(?i)(\b{_WORD}\s*=\s*)(?!['\"])[^\s&,;'\"]+"), rf"\1{HIDDEN}"),
    (
        re.compile(r"(?i)(\bauthorization['\"]?\s*[=:]\s*['\"]?(?:basic|digest|negotiate|bearer)\s+)[^\s'\"]+"),
        rf"\1{HIDDEN}",
    ),
)


def mask_secrets(text: str) -> str:
    """The same text with every password in it replaced by ``***``."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
