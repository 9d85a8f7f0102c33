"""OpenAI's batch endpoint: requests are uploaded as a file, results are downloaded as one or two files."""

# ruff: noqa: SLF001  a batch model shares the private parts of its adapter
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from promptopt.errors import PermanentModelError
from promptopt.models.hosted.batches.base import HostedBatches, Line, encoded
from promptopt.models.hosted.bodies import at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from promptopt.models.base import Request, Submission
    from promptopt.models.hosted.openai import OpenAIModel

_log = logging.getLogger(__name__)

_ENDED = ("completed", "failed", "expired", "cancelled")


class OpenAIBatches(HostedBatches):
    """An OpenAI model with its batch endpoint. A batch carries its submission's tag as metadata."""

    model: OpenAIModel
    path = "/batches"
    reads_labels: Literal[True] = True
    max_requests = 50_000
    max_bytes = 200_000_000

    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:  # noqa: ARG002  the tag is enough
        """Return the batch that carries the tag."""
        batches = self.client.retry(lambda: list(self.client.pages(self.path, "after")), check)
        tagged = (batch for batch in batches if at(batch, "metadata", "promptopt") == submission.tag)
        return next((str(batch["id"]) for batch in tagged), None)

    def batch_entry(self, key: str, request: Request) -> dict[str, Any]:
        """Return one line of the file to upload.

        Raises:
            InputError: the protocol does not support the request.
        """
        model = self.model
        body = model.body(model.check_request(request))
        return {"custom_id": key, "method": "POST", "url": model.path(request), "body": body}

    def create(self, submission: Submission, requests: Mapping[str, Request]) -> str:
        """Upload the requests and create the batch."""
        lines = "".join(encoded(self.batch_entry(key, request)) + "\n" for key, request in requests.items())
        file = f"promptopt-{submission.tag}.jsonl", lines.encode()
        uploaded = self.client.call(lambda client: client.files.with_raw_response.create(file=file, purpose="batch"))
        batch = self.client.call(
            lambda client: client.batches.with_raw_response.create(
                input_file_id=self.client.json(uploaded.http_response.text)["id"],
                endpoint=self.model.path(next(iter(requests.values()))),
                completion_window="24h",
                metadata={"promptopt": submission.tag},
            ),
            once=True,
        )
        return str(self.client.json(batch.http_response.text)["id"])

    def fetch_state(self, batch: str) -> dict[str, Any]:
        """Return the state of a batch."""
        return self.client.json(self.client.get(f"{self.path}/{batch}"))

    def progress(self, state: Mapping[str, Any]) -> tuple[bool, int, int]:
        """Return whether a batch has ended, how many requests are done, and how many there are."""
        counts = state.get("request_counts") or {}
        done = counts.get("completed", 0) + counts.get("failed", 0)
        return _status(state) in _ENDED, done, counts.get("total", 0)

    def read_results(self, state: Mapping[str, Any]) -> list[Line]:
        """Return the results in the output and error files.

        Raises:
            PermanentModelError: the batch failed validation.
        """
        if _status(state) == "failed":
            self._check_errors(at(state, "errors", "data", 0))
        files = [state[kind] for kind in ("output_file_id", "error_file_id") if state.get(kind)]
        texts = [self.client.get(f"/files/{file}/content") for file in files]
        return [_line(line) for text in texts for line in self.client.json_lines(text)]

    def _check_errors(self, error: Any) -> None:
        message = self.model._without_key(f"{at(error, 'code')}: {at(error, 'message')}")
        if at(error, "code") != "token_limit_exceeded":  # this limit clears when other batches end
            fix = "fix that, or omit --batch"
            raise PermanentModelError(f"{self.endpoint} refused a batch ({message}): {fix}", endpoint=self.endpoint)
        _log.warning("%s did not start a batch (%s)", self.endpoint, message)


def _status(state: Mapping[str, Any]) -> str:
    return str(state.get("status")).lower()  # some servers use upper case


def _line(line: Mapping[str, Any]) -> Line:
    key, response, error = str(line.get("custom_id")), line.get("response"), line.get("error")
    status = at(response, "status_code")
    if not isinstance(status, int) or not status:
        return Line(key, 0, at(error, "message") or at(error, "code"))
    return Line(key, status, at(response, "body"))
