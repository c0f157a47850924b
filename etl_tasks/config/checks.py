"""What a single value must look like. Each check raises ValueError("what is wrong; what to write instead")."""

from __future__ import annotations

import difflib
import os
import re
import zoneinfo
from urllib.parse import urlsplit

from etl_tasks.core.source_names import split_source_table

_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_FORBIDDEN_IN_COLUMN = re.compile(r"[\x00-\x1f\x7f-\x9f\"'`\\,]")
MAX_JOURNAL_NAME = 44  # PostgreSQL cuts names at 63 bytes, and "_active_one_uq_idx" is appended
PROCESS_NAME_MAX = 128
LEAST_PUBLISH_MB = 600  # an INSERT of 32 columns holds 450 MB of write buffers, however small its blocks are


def table(text: str) -> str:
    """``table`` or ``schema.table``."""
    if not _TABLE.fullmatch(text):
        raise ValueError("is not a table's name; write table or schema.table with letters, digits and underscores")
    return text


def source_table(text: str) -> str:
    """A Phoenix table, quoted or not."""
    try:
        split_source_table(text)
    except ValueError as error:
        raise ValueError(f"is not a Phoenix table's name; {error}") from None
    return text


def optional_name(text: str) -> str:
    """One identifier, or nothing."""
    if text and not _NAME.fullmatch(text):
        raise ValueError("is not a name; write letters, digits and underscores, or leave it empty")
    return text


def name(text: str) -> str:
    """One identifier."""
    if not text:
        raise ValueError("is empty; write a name")
    return optional_name(text)


def journal_table(text: str) -> str:
    """A PostgreSQL table from whose name other names are derived."""
    table(text)
    if len(text.rpartition(".")[2]) > MAX_JOURNAL_NAME:
        raise ValueError(f"is too long to derive other names from; write at most {MAX_JOURNAL_NAME} characters")
    return text


def process_name(text: str) -> str:
    """The journal's name of the schedule's lane; the derived lanes have forms of their own."""
    if not text or len(text) > PROCESS_NAME_MAX or not text.isprintable():
        raise ValueError(f"is not a process name; write 1 to {PROCESS_NAME_MAX} printable characters")
    if text.startswith("manual_") or text.endswith(":dedup"):
        raise ValueError("is the form of a derived lane (manual_…, …:dedup); write the plain name of the process")
    return text


def column(text: str) -> str:
    """Any Phoenix column's name that can be quoted safely; case counts."""
    if not text or _FORBIDDEN_IN_COLUMN.search(text):
        raise ValueError("is not a column's name; write it bare, without quotes, commas or control characters")
    return text


def columns(value: object) -> object:
    """A comma-separated list of columns, as a tuple."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if "" in parts:
        raise ValueError("has an empty name between commas; write c,t,opd,… without stray commas")
    for part in parts:
        if _FORBIDDEN_IN_COLUMN.search(part):
            raise ValueError(f"has {part!r} in it; write names bare, without quotes or control characters")
    repeated = sorted({part for part in parts if parts.count(part) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} twice; write each column once")
    return tuple(parts)


def hosts(value: object) -> object:
    """A comma-separated list of ``host`` or ``host:port``, as a tuple."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if "" in parts:
        raise ValueError("has an empty host between commas; write host or host:port, separated by commas")
    for part in parts:
        endpoint(part, default_port=1)
    repeated = sorted({part for part in parts if parts.count(part) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} twice; write each host once")
    return tuple(parts)


def endpoint(text: str, default_port: int) -> tuple[str, int]:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port`` as host and port."""
    wrong = ValueError(f"has {text!r} in it; write host or host:port, an IPv6 address in brackets")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or not re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", host):
            raise wrong
        if rest and not rest.startswith(":"):
            raise wrong
        port_text = rest[1:] if rest else None
    else:
        host, colon, after = text.partition(":")
        port_text = after if colon else None
        if not _HOST.fullmatch(host):
            raise wrong
    if port_text is None:
        return host, default_port
    if not (port_text.isascii() and port_text.isdecimal() and 1 <= int(port_text) <= 65535):
        raise ValueError(f"has {text!r} in it; a port is a number from 1 to 65535")
    return host, int(port_text)


def timezone(text: str) -> str:
    """An IANA time zone, or nothing for UTC."""
    if not text:
        return text
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(text, zoneinfo.available_timezones(), n=1)
        hint = f"did you mean {near[0]}?" if near else "write a name such as Europe/Berlin, or nothing for UTC"
        raise ValueError(f"is not a time zone of the IANA database; {hint}") from None
    return text


def upper(value: object) -> object:
    """A word in capitals, whichever way it was written."""
    return value.upper() if isinstance(value, str) else value


def existing_file(text: str) -> str:
    """A readable file, or nothing."""
    if text and not (os.path.isfile(text) and os.access(text, os.R_OK)):
        raise ValueError("is not a file that can be read; write the path of a PEM file, or leave it empty")
    return text


def http_url(text: str) -> str:
    """``http(s)://host[:port][/path]``."""
    return _url(text, ("http", "https"), "http://host:8765")


def redis_url(text: str) -> str:
    """``redis(s)://[user:password@]host[:port][/number]``."""
    return _url(text, ("redis", "rediss"), "redis://host:6379/0, or rediss://… for TLS")


def optional_redis_url(text: str) -> str:
    """As ``redis_url``, or nothing."""
    return redis_url(text) if text else text


def pg_dsn(text: str) -> str:
    """A PostgreSQL URL, or libpq's ``name=value`` form."""
    if "://" not in text:
        if re.match(r"\s*[a-z_]+\s*=", text):
            return text
        raise ValueError("is not a connection string; write postgresql://user:password@host:5432/database")
    authority = text.partition("://")[2].partition("/")[0]
    if authority.count("@") > 1:
        # libpq takes what stands behind the first one for the host, and the password's end would be shown as its name.
        raise ValueError("has an @ in its password or user; write it as %40")
    return _url(text, ("postgresql", "postgres"), "postgresql://user:password@host:5432/database", needs_host=False)


def publish_memory(megabytes: int) -> int:
    """Megabytes that a statement of a publish can do with, or 0."""
    if 0 < megabytes < LEAST_PUBLISH_MB:
        raise ValueError(
            f"is too little for any publish; write at least {LEAST_PUBLISH_MB}, or 0 for the server's bound"
        )
    return megabytes


def database_address(dsn: str) -> str:
    """``host:port/database`` of a PostgreSQL connection string, without user, password and options."""
    if "://" in dsn:
        parts = urlsplit(dsn)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    words = dict(re.findall(r"(host|port|dbname)\s*=\s*'?([^\s']+)", dsn))
    return f"{words.get('host', 'localhost')}:{words.get('port', 5432)}/{words.get('dbname', '')}"


def optional_pg_dsn(text: str) -> str:
    """As ``pg_dsn``, or nothing."""
    return pg_dsn(text) if text else text


def optional_user_and_password(text: str) -> str:
    """``user:password``, or nothing."""
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise ValueError("is not a name with a password; write user:password, or leave it empty")
    return text


def hint(text: str) -> str:
    """The inside of a Phoenix hint comment."""
    if any(part in text for part in ("/*", "*/", ";")) or not (text.isprintable() or not text):
        raise ValueError("cannot stand inside a hint; write only its inside, such as INDEX(table index)")
    return text


def quorum(text: str) -> str:
    """``auto`` or a number of replicas."""
    if text != "auto" and not (text.isascii() and text.isdecimal() and int(text) <= 100):
        raise ValueError("is neither auto nor a number of replicas; write auto, or 0 for none")
    return text


def _url(text: str, schemes: tuple[str, ...], example: str, *, needs_host: bool = True) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise ValueError(f"cannot be read as a URL (a port from 1 to 65535?); write {example}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"does not begin with {' or '.join(s + '://' for s in schemes)}; write {example}")
    if port == 0 or (needs_host and not host):
        raise ValueError(f"names no host or port 0; write {example}")
    if any(character.isspace() for character in text):
        raise ValueError(f"has a blank in it (write %20 for one in a password); write {example}")
    return text
