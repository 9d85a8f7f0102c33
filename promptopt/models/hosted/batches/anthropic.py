"""Anthropic's message batches: one call submits the requests, one returns the results."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from promptopt.models.hosted.batches.base import HostedBatches, Line
from promptopt.models.hosted.batches.client import NotFoundError
from promptopt.models.hosted.bodies import at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from promptopt.models.base import Request, Submission

_CLOCK_SKEW = 3600.0  # seconds by which the provider's clock may be behind ours
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches(HostedBatches):
    """An Anthropic model with its batch endpoint.

    Batches cannot be tagged. A lost batch is identified by its creation time, its size, and then the keys in its results;
    this waits for every batch of that size to end.
    """

    path = "/v1/messages/batches"
    max_requests = 100_000
    max_bytes = 256_000_000

    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the id of the batch whose results contain these keys."""
        wanted = set(keys)
        for state in self.client.retry(lambda: list(self.client.pages(self.path, "after_id")), check):
            too_early = datetime.fromisoformat(state["created_at"]).timestamp() < submission.since - _CLOCK_SKEW
            if too_early or self.progress(state)[2] != submission.size:
                continue
            try:
                lines = self.results_of(state["id"], check)
            except NotFoundError:
                continue
            if any(line.key in wanted for line in lines):
                return str(state["id"])
        return None

    def batch_entry(self, key: str, request: Request) -> dict[str, Any]:
        """Return one request of a batch."""
        return {"custom_id": key, "params": self.model.body(request)}

    def create(self, submission: Submission, requests: Mapping[str, Request]) -> str:  # noqa: ARG002  batches have no tags
        """Create the batch."""
        entries = [self.batch_entry(key, request) for key, request in requests.items()]
        batch = self.client.call(
            lambda client: client.messages.batches.with_raw_response.create(requests=entries), once=True
        )
        return str(self.client.json(batch.http_response.text)["id"])

    def fetch_state(self, batch: str) -> dict[str, Any]:
        """Return the state of a batch."""
        return self.client.json(self.client.get(f"{self.path}/{batch}"))

    def progress(self, state: Mapping[str, Any]) -> tuple[bool, int, int]:
        """Return whether a batch has ended, how many requests are done, and how many there are."""
        counts = state.get("request_counts") or {}
        total = sum(counts.values())
        return state.get("processing_status") == "ended", total - counts.get("processing", 0), total

    def read_results(self, state: Mapping[str, Any]) -> list[Line]:
        """Return the results of all requests.

        Raises:
            NotFoundError: the provider no longer has them.
        """
        if state.get("archived_at"):
            raise NotFoundError("its results are archived")
        return [_line(line) for line in self.client.json_lines(self.client.get(f"{self.path}/{state['id']}/results"))]


def _line(line: Mapping[str, Any]) -> Line:
    key, kind = str(line.get("custom_id")), at(line, "result", "type")
    if kind == "succeeded":
        return Line(key, 200, at(line, "result", "message"))
    if kind == "errored":
        error = at(line, "result", "error")
        return Line(key, _STATUSES.get(str(at(error, "error", "type")), 500), error)
    return Line(key, 0, kind)
