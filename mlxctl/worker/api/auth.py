"""Who is asking: API keys, their priorities, and whose cache it is. Runs before a body is read."""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxctl.worker.api.asks import Caller
from mlxctl.worker.api.faults import error_response
from mlxctl.worker.errors import Unauthorized
from mlxctl.worker.types import Priority

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/openapi.json"})


class Auth:
    """Leaves a `Caller` in the request's state. Without keys everybody is welcome."""

    def __init__(self, app: ASGIApp, keys: dict[str, Priority], default: Priority) -> None:
        self._app = app
        self._default = default
        self._callers = [
            (key.encode(), Caller(priority, salt=hashlib.blake2b(key.encode(), digest_size=16).hexdigest()))
            for key, priority in keys.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            caller = self._caller(HTTPConnection(scope))
            if caller is None:
                refused = Unauthorized("an API key is needed: Authorization: Bearer KEY")
                await error_response(refused)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, connection: HTTPConnection) -> Caller | None:
        header = connection.headers.get("x-priority", "")
        if not self._callers or connection.scope["path"] in OPEN_PATHS:
            return Caller(self._default, header)
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        offered = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        found: Caller | None = None
        for key, caller in self._callers:
            # every key is compared, so that the time tells nothing of which one was near
            if hmac.compare_digest(key, offered):
                found = caller
        return None if found is None else Caller(found.priority, header, found.salt)
