"""What a server refuses, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is refused.

    Args:
        message: names the culprit, the value and the fix.
        status: of the HTTP response.
        param: the field at fault.
        code: OpenAI's word for the error.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"  # noqa: PLR2004  HTTP's numbers
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
