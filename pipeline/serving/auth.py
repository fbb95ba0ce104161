"""Authentication: a bearer token on every route but `/health`, checked before the request body is read."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.serving.errors import ApiError
from sparrow_core.errors import ConfigError

TOKEN_VARIABLE = "SPARROW_API_TOKEN"
OPEN_ROUTES = frozenset({"/health"})


def token_digest(token: str) -> bytes:
    """SHA-256 of the token. The endpoint keeps only this, which can check a token but not reveal it."""
    return hashlib.sha256(token.encode()).digest()


def chosen_token(file: Path | None, insecure: bool, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token from a file, else from the environment; None only if the user explicitly asks for none (`insecure`).

    Raises ConfigError if the token is missing or empty, or given together with `insecure`.
    """
    try:
        token = file.read_text().strip() if file else environment.get(TOKEN_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {file} cannot be read: {error}") from error
    if insecure:
        if token is not None:
            raise ConfigError("there is a token, but --insecure-no-token asks for none; drop one of the two")
        return None
    if not token:
        where = f"token file {file} is empty" if file else "there is no API token"
        raise ConfigError(
            f"{where}; set {TOKEN_VARIABLE}, give --token-file, or let everybody in with --insecure-no-token"
        )
    return token


class BearerAuth:
    """ASGI middleware that answers 401 to requests without the token. Compares digests in constant time."""

    def __init__(self, app: ASGIApp, digest: bytes) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_ROUTES or self._is_authorized(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(401, "a valid bearer token is required", code="invalid_api_key")
        answer = JSONResponse(error.body, error.status, headers={"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token_digest(token.strip()), self._digest)
