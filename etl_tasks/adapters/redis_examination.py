"""What ``doctor`` asks of Redis; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
import redis.exceptions

from etl_tasks.core.doctor.facts import RedisFacts
from etl_tasks.errors import AuthenticationFailed, TransientError, Unreachable

TIMEOUT_S = 5.0
_BINDINGS = "_kombu.binding."
_SCANS, _KEYS_A_SCAN = 500, 5_000


@contextmanager
def _asking(setting: str) -> Iterator[None]:
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise AuthenticationFailed(f"Redis refused us ({error}); check the user and password in {setting}") from error
    except redis.exceptions.NoPermissionError as error:
        raise AuthenticationFailed(f"Redis denies the user of {setting} a command: {error}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise Unreachable(f"Redis does not answer ({error}); check {setting} and that Redis runs") from error
    except redis.exceptions.RedisError as error:
        raise TransientError(f"Redis: {type(error).__name__}: {error}") from error


class RedisExamination:
    """One database of Redis."""

    def __init__(self, url: str, tls: Mapping[str, Any] | None, setting: str) -> None:
        self._setting = setting
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, **(tls or {})
        )

    def server(self) -> RedisFacts:
        """Version, persistence and eviction; raises Unreachable or AuthenticationFailed."""
        with _asking(self._setting):
            info = self._client.info()
        return RedisFacts(
            version=str(info.get("redis_version", "")),
            append_only=bool(info.get("aof_enabled")),
            saves=self._configured("save"),
            policy=str(info.get("maxmemory_policy", "")),
            maxmemory_bytes=int(info.get("maxmemory", 0)),
        )

    def declared_queues(self) -> frozenset[str]:
        """The queues that were declared in this database, whoever did; of the first millions of its keys."""
        with _asking(self._setting):
            return frozenset(self._declared())

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()

    def _declared(self) -> Iterator[str]:
        cursor = 0
        for _ in range(_SCANS):
            cursor, keys = self._client.scan(cursor, match=f"{_BINDINGS}*", count=_KEYS_A_SCAN)
            yield from (key.decode(errors="replace").removeprefix(_BINDINGS) for key in keys)
            if not cursor:
                return

    def _configured(self, name: str) -> str | None:
        """A value of CONFIG, which hosted servers do not let everybody read."""
        try:
            with _asking(self._setting):
                return str(self._client.config_get(name).get(name, ""))
        except (TransientError, AuthenticationFailed):
            return None
