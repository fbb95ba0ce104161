"""Errors of HTTP requests, in the shape that OpenAI's clients expect."""

from typing import Any

from sparrow_core.errors import ConfigError, EngineClosedError, MediaError, SparrowError


class ApiError(SparrowError):
    """A request that is answered with an HTTP status and an error object.

    `param` is the dotted path of the field at fault, `code` a machine-readable cause.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def overloaded(limit: int, retry_after_s: int) -> ApiError:
    """429: the endpoint has admitted as many requests as it accepts."""
    return ApiError(
        429,
        f"{limit} requests are running or waiting, which is the limit; try again in {retry_after_s} s",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after_s)},
    )


def unavailable(message: str) -> ApiError:
    """503: the engine cannot answer."""
    return ApiError(503, message, kind="server_error", code="engine_unavailable")


def as_api_error(error: SparrowError) -> ApiError:
    """The answer to the client for any SparrowError."""
    match error:
        case ApiError():
            return error
        case MediaError():
            return ApiError(422, str(error), code=error.reason)
        case ConfigError():
            return ApiError(400, str(error), code="refused")
        case EngineClosedError():
            return unavailable("the engine has stopped; the request was not answered")
    return ApiError(500, "internal error", kind="server_error", code="internal_error")
