"""What goes wrong with an HTTP request, in the shape in which OpenAI's clients expect to read it."""

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
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def overloaded(limit: int, retry_after_s: int) -> ApiError:
    """429: as many requests are in work or waiting as the endpoint accepts."""
    return ApiError(
        429,
        f"{limit} requests are in work or waiting, which is the limit; try again in {retry_after_s} s",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after_s)},
    )


def unavailable(message: str) -> ApiError:
    """503: the engine cannot answer."""
    return ApiError(503, message, kind="server_error", code="engine_unavailable")


def as_api_error(error: SparrowError) -> ApiError:
    """Any of our own errors as an answer to the client."""
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
