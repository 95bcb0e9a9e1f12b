"""What a request must pass before the endpoint reads it: the bearer token and the size of its body."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.image_api import Failure

OPEN_PATHS = ("/", "/healthz")  # the page holds nothing secret and asks for the token itself


def token_digest(token: str) -> bytes:
    """SHA-256 of a token: what the cluster stores instead of the token."""
    return hashlib.sha256(token.encode()).digest()


class Gate:
    """ASGI middleware; refuses with 401 and 413.

    Args:
        app: what lies behind.
        digest: `token_digest` of the token that is asked for; None asks for none.
        most_bytes: of a request's body.
    """

    def __init__(self, app: ASGIApp, digest: bytes | None, most_bytes: int):
        self._app = app
        self._digest = digest
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if scope["path"] not in OPEN_PATHS and not self._knows(headers.get("authorization", "")):
            return await _UNKNOWN.response()(scope, receive, send)
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most_bytes:
            return await self._too_large().response()(scope, receive, send)
        return await self._app(scope, self._counted(receive), send)

    def _knows(self, authorization: str) -> bool:
        if self._digest is None:
            return True
        kind, _, token = authorization.partition(" ")
        # Digests have one length and are compared in constant time: the answer's time says nothing about the token.
        return hmac.compare_digest(token_digest(token.strip()), self._digest) and kind.lower() == "bearer"

    def _counted(self, receive: Receive) -> Receive:
        """`receive` for a body whose length is not declared, or is declared falsely."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most_bytes:
                raise HTTPException(413, self._too_large().message)
            return message

        return counted

    def _too_large(self) -> Failure:
        return Failure(413, f"the body is larger than {self._most_bytes} bytes", code="request_too_large")


_UNKNOWN = Failure(
    401,
    "missing or wrong bearer token; send the header Authorization: Bearer TOKEN",
    code="invalid_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)
