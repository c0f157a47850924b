"""What a ``PhoenixSource`` has to know, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from etl_tasks.adapters.phoenix.sql import checked_hint, quote_identifier, quote_table
from etl_tasks.errors import ConfigError

TimeUnits = Literal["timestamp", "millis", "seconds"]
Authentication = Literal["none", "basic", "digest", "spnego"]

DEFAULT_PORT: Final = 8765
# phoenixdb takes these out of the URL; a URL is shown in logs and errors, so they have to come as settings of their
# own.
_URL_CREDENTIALS: Final = frozenset({"authentication", "avatica_user", "avatica_password", "truststore", "doas"})


@dataclass(frozen=True, slots=True)
class PhoenixConfig:
    """One Phoenix table behind one Query Server.

    ``fetch_rows`` is PHX_FETCHMANY_SIZE, the most rows of a frame; wide rows make frames shorter, so that one stays
    below ``max_frame_bytes`` on the wire. ``ts_units`` says what ``ts_column`` holds: a TIMESTAMP (or DATE), or an
    integer of milliseconds or seconds since the epoch. ``query_hint`` goes into every read and count (``INDEX("T"
    "IDX")``). ``ca_file`` is a PEM file that replaces the usual authorities; ``verify=False`` turns certificate checks
    off. ``max_idle_s``: a connection idle for longer is replaced before its next statement (the Query Server forgets
    connections after ten minutes). User and password may stand in the URL; neither they nor the URL as given is ever
    shown.

    Raises ConfigError with all faults at once.
    """

    url: str = field(repr=False)
    table: str
    ts_column: str
    columns: tuple[str, ...]
    ts_units: TimeUnits = "timestamp"
    fetch_rows: int = 5_000
    probe_timeout_ms: int = 1_200
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 300.0
    query_hint: str | None = None
    auth: Authentication = "none"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    verify: bool = True
    max_frame_bytes: int = 8 * 1024 * 1024
    max_idle_s: float = 240.0
    scheme: str = field(init=False, default="http")
    host: str = field(init=False, default="")
    port: int = field(init=False, default=DEFAULT_PORT)
    path: str = field(init=False, default="/", repr=False)

    def __post_init__(self) -> None:
        faults = self._take_url()
        for value, name, least in (
            (self.fetch_rows, "fetch_rows", 1),
            (self.probe_timeout_ms, "probe_timeout_ms", 1),
            (self.max_frame_bytes, "max_frame_bytes", 1),
        ):
            if value < least:
                faults.append(f"{name} must be at least {least}, not {value}")
        for seconds, name in ((self.connect_timeout_s, "connect_timeout_s"), (self.read_timeout_s, "read_timeout_s")):
            if not seconds > 0:
                faults.append(f"{name} must be more than 0 seconds, not {seconds}")
        if self.ts_units not in get_args(TimeUnits):
            faults.append(f"ts_units must be one of {', '.join(get_args(TimeUnits))}, not {self.ts_units!r}")
        if self.auth not in get_args(Authentication):
            faults.append(f"auth must be one of {', '.join(get_args(Authentication))}, not {self.auth!r}")
        if self.auth in ("basic", "digest") and (not self.user or self.password is None):
            faults.append(f"auth {self.auth} needs a user and a password")
        faults += self._check_names()
        if faults:
            raise ConfigError("the Phoenix source cannot be used: " + "; ".join(faults))

    def _take_url(self) -> list[str]:
        """Split the URL into its shown parts; what is secret goes to ``user`` and ``password``."""
        text = self.url if "://" in self.url else f"http://{self.url}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            return ["the URL of the Query Server cannot be read (its text is not shown, it may hold a password)"]
        faults = []
        if parts.scheme not in ("http", "https"):
            faults.append(f"the URL of the Query Server must begin with http:// or https://, not {parts.scheme}://")
        if not host:
            faults.append("the URL of the Query Server has no host")
        secret = _URL_CREDENTIALS & {name.lower() for name in parse_qs(parts.query, keep_blank_values=True)}
        if secret:
            faults.append(
                f"the URL of the Query Server must not carry {', '.join(sorted(secret))}: there are settings for them"
            )
        object.__setattr__(self, "scheme", parts.scheme)
        object.__setattr__(self, "host", host or "")
        object.__setattr__(self, "port", port or (443 if parts.scheme == "https" else DEFAULT_PORT))
        object.__setattr__(self, "path", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        if parts.username and self.user is None:
            object.__setattr__(self, "user", unquote(parts.username))
        if parts.password is not None and self.password is None:
            object.__setattr__(self, "password", unquote(parts.password))
        return faults

    def _check_names(self) -> list[str]:
        faults = []
        for check, value in (
            (quote_table, self.table),
            *((quote_identifier, name) for name in (self.ts_column, *self.columns)),
            (checked_hint, self.query_hint or ""),
        ):
            try:
                check(value)
            except ConfigError as fault:
                faults.append(str(fault))
        if not self.columns:
            faults.append("no columns are named (MAIN_COLUMNS)")
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            faults.append(f"columns named twice: {', '.join(repeated)} (MAIN_COLUMNS)")
        if self.columns and self.ts_column not in self.columns:
            faults.append(f"the time column {self.ts_column} is not among the columns (MAIN_COLUMNS)")
        return faults

    @property
    def endpoint(self) -> str:
        """The URL to talk to, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def place(self) -> str:
        """Table and server, for messages."""
        return f"{self.table} at {self.host}:{self.port}"
