"""Every error that a request to the worker can meet, in the shape of OpenAI's API.

RequestError                500  server_error
├── InvalidRequest          400  invalid_request_error    also 413 for a body that is too large
├── Unauthorized            401  authentication_error
├── UnknownModel            404  invalid_request_error    code model_not_found
├── QueueFull               429  rate_limit_error         with Retry-After
├── Unavailable             503  server_error             loading, draining or out of memory; with Retry-After
└── EngineFailed            500  server_error             the model could not compute the answer
"""

from __future__ import annotations

from typing import Any, ClassVar


class RequestError(Exception):
    """Root of the tree. `param` names the field of the request that is wrong."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """OpenAI's envelope."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class InvalidRequest(RequestError):
    status = 400
    kind = "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    status = 413


class Unauthorized(RequestError):
    status = 401
    kind = "authentication_error"
    default_code = "invalid_api_key"


class UnknownModel(RequestError):
    status = 404
    kind = "invalid_request_error"
    default_code = "model_not_found"


class QueueFull(RequestError):
    status = 429
    kind = "rate_limit_error"
    default_code = "queue_full"


class Unavailable(RequestError):
    status = 503
    default_code = "unavailable"


class EngineFailed(RequestError):
    default_code = "engine_failed"


MODEL_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError)
"""What MLX and a model's own code raise when they cannot go on."""
