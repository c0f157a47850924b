"""The HTTP session under phoenixdb: a time-out on every request, no retries, answers judged before they are parsed."""

from __future__ import annotations

from typing import Any, Final

import gssapi
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from requests_gssapi import HTTPSPNEGOAuth

from etl_tasks.adapters.phoenix.errors import refusal
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.sockets import Sockets
from etl_tasks.errors import Overloaded

_CHUNK: Final = 1 << 20
_BODY_LIMIT_FRAMES: Final = 16
"""An answer may be this many times ``max_frame_bytes`` (one frame in which the rows suddenly grew) before it is cut
off.
"""


class TimeoutAdapter(HTTPAdapter):
    """Sets (connect, read) time-outs on every request: phoenixdb sets none, and a hung server would hang us (FACTS)."""

    def __init__(self, connect_s: float, read_s: float, sockets: Sockets) -> None:
        self._timeout = (connect_s, read_s)
        self._sockets = sockets
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As HTTPAdapter, with connections that ``sockets`` knows."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._sockets.pools

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As HTTPAdapter, with the time-outs whatever the caller said."""
        return super().send(request, *args, **{**kwargs, "timeout": self._timeout})


class BoundedBody:
    """Stands for ``response.raw``: gives the whole body or raises, and never takes more than ``limit`` bytes.

    A body that breaks off, times out or is too long closes its socket at once, so that nothing is left half read.
    """

    def __init__(self, raw: Any, limit: int) -> None:
        self._raw = raw
        self._limit = limit
        self._taken: bytearray | None = None

    def take(self) -> None:
        """Read it now, for whoever asks for it later; raises as ``read``."""
        self._taken = self.grown()

    def read(self) -> bytes:
        """The body; raises Overloaded above the limit and urllib3's exceptions when it ends early or stops coming."""
        return bytes(self.grown())

    def grown(self) -> bytearray:
        """As ``read``, in a buffer that may be written to, so that a frame is in memory only once."""
        if self._taken is not None:
            body, self._taken = self._taken, None
            return body
        body = bytearray()
        try:
            # decode_content: a proxy may gzip although `accept-encoding: identity` asks it not to.
            while chunk := self._raw.read(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > self._limit:
                    raise Overloaded(
                        f"the Query Server's answer is larger than {self._limit} bytes: rows grew suddenly; "
                        "lower PHX_FETCHMANY_SIZE or read a narrower window"
                    )
        except BaseException:
            self._raw.close()
            raise
        return body


class QueryServerSession(requests.Session):
    """The session to put on phoenixdb's client before its first request.

    Proxies and netrc of the environment are not used: the probe and the connection go the same, direct way.
    """

    def __init__(self, config: PhoenixConfig) -> None:
        super().__init__()
        self.trust_env = False
        self.stream = True
        self.verify = config.ca_file or True if config.verify else False
        self.auth = _authentication(config)
        # identity: gzipped answers end in a DecodeError inside phoenixdb (FACTS).
        self.headers.update({"content-type": "application/x-google-protobuf", "accept-encoding": "identity"})
        self._body_limit = config.max_frame_bytes * _BODY_LIMIT_FRAMES
        self.sockets = Sockets()
        for prefix in ("http://", "https://"):
            self.mount(prefix, TimeoutAdapter(config.connect_timeout_s, config.read_timeout_s, self.sockets))

    def post(self, url: Any, data: Any = None, json: Any = None, **kwargs: Any) -> requests.Response:
        """POST without following redirects; raises what ``errors.refusal`` says of an answer that is not Avatica's."""
        response = super().post(url, data=data, json=json, **{**kwargs, "allow_redirects": False})
        refused = refusal(response.status_code, response.headers.get("content-type", ""))
        if refused is not None:
            response.close()
            raise refused
        response.raw = BoundedBody(response.raw, self._body_limit)
        return response


def _authentication(config: PhoenixConfig) -> Any:
    user, password = config.user or "", config.password or ""
    if config.auth == "basic":
        return HTTPBasicAuth(user.encode(), password.encode())
    if config.auth == "digest":
        return HTTPDigestAuth(user, password)
    if config.auth == "spnego":
        mechanism = gssapi.mechs.Mechanism.from_sasl_name("SPNEGO")
        return HTTPSPNEGOAuth(opportunistic_auth=True, mech=mechanism)
    return None
