"""Sends JSON over HTTP. Standard library only, because it also runs in the peers' environments."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Answer(NamedTuple):
    """What a server answered: status and body."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the request was answered as asked."""
        return self.status == 200  # noqa: PLR2004

    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


def post(url: str, body: Mapping[str, Any]) -> Answer:
    """Send a request and wait for its answer, however long it takes."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310  of the servers on this machine
            return Answer(reply.status, reply.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read())
