"""Search the wording by which an image model draws what is asked; a judge that sees the picture scores it and says why.

`OPENAI_API_KEY=... python text_to_image.py --budget '2 dollars'`, or `--base-url` for any server that speaks OpenAI's
protocol. Pictures are in a folder, named by the digest of their content; memo and budget see these names.
"""

import argparse
import base64
import binascii
import hashlib
import json
import mimetypes
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from promptopt import Example, Judge, Prompt, Request, Response, Result, Task, Usage, optimize
from promptopt.images import Image, content, parts, reference
from promptopt.models.base import Price
from promptopt.models.hosted.bodies import at
from promptopt.models.hosted.dialect import Dialect
from promptopt.models.hosted.model import HostedModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.replies import Failure
from promptopt.utils.json_values import json_object

REFUSALS = ("moderation_blocked", "content_policy_violation")  # codes of OpenAI's
CRITERIA = (
    "The picture shows what the wish says: every thing in it, as many as asked, in the right colours, and nothing else."
)


class PictureModel(HostedModel):
    """A model behind OpenAI's images endpoint; its reply is a reference to the picture's file.

    A picture counts as one output token where the endpoint counts no tokens: then a price is in dollars per million
    pictures, and `max_tokens` of the task is 1. A refusal is a reply without a picture.

    Args:
        name: the provider's name of the model.
        folder: where pictures are kept.
        size: of a picture, in the provider's words.
        settings: as of `HostedModel`.
    """

    service = OpenAIModel.service

    def __init__(self, name: str, folder: Path, size: str = "1024x1024", **settings: Any) -> None:
        super().__init__(name, **settings)
        self.folder, self.size = folder, size
        self.fingerprint = {**self.fingerprint, "size": size, "folder": folder.as_posix()}

    def path(self, request: Request) -> str:  # noqa: ARG002  the base class's
        """Return where a request goes."""
        return "/v1/images/generations"

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON that is sent: the whole message is the image model's prompt."""
        context = request.context
        text = context if isinstance(context, str) else "\n\n".join(turn.content for turn in context)
        body = {"model": self.name, "prompt": text, "n": 1, "size": self.size, "response_format": "b64_json"}
        return {name: value for name, value in body.items() if name not in dialect.omitted}

    def optional_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what newer models do not take: they always send the picture itself."""
        return {name: body[name] for name in ("response_format",) if name in body}

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        return await client.images.with_raw_response.generate(prompt="", extra_body=body)

    async def _exchange(self, client: Any, request_body: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        status, headers, text = await super()._exchange(client, request_body)
        if status == 400 and at(json_object(text), "error", "code") in REFUSALS:
            return 200, headers, json.dumps({"refused": True})
        return status, headers, text

    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:  # noqa: ARG002  the base class's
        if body.get("refused"):
            return Response("", finish_reason="refusal")
        try:
            data = base64.b64decode(at(body, "data", 0, "b64_json") or "", validate=True)
        except (binascii.Error, TypeError, ValueError):
            data = b""
        if not data:
            return Failure("the reply holds no picture")
        taken, given = (at(body, "usage", name) for name in ("input_tokens", "output_tokens"))
        usage = Usage(int(taken or 0), output=int(given)) if given else Usage(output=1)
        return Response(reference(self._kept(data)), usage=usage)

    def _kept(self, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpg"
        file = self.folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
        partial = file.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(file)
        return file


class SeeingModel(OpenAIModel):
    """A chat model that is sent the pictures that a message refers to, not their references."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.fingerprint = {**self.fingerprint, "sees": "pictures"}

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON that is sent for a request."""
        body = super().format_body(request, dialect)
        for turn in body.get("messages", ()):
            pieces = list(parts(turn["content"]))
            if any(isinstance(piece, Image) for piece in pieces):
                turn["content"] = [part(piece) for piece in pieces]
        return body


def part(piece: str | Image) -> dict[str, Any]:
    """Return a piece of a message as OpenAI's protocol has it."""
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    kind = mimetypes.guess_type(piece.path.name)[0]
    url = f"data:{kind};base64,{base64.b64encode(content(piece)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def wishes(numbers: Iterable[int]) -> tuple[Example, ...]:
    """Return some of 24 wishes: so many things of a colour."""
    counted = product(("two", "three", "four", "five"), ("red", "green", "blue"), ("apples", "boats"))
    texts = [" ".join(words) for words in counted]
    return tuple(Example({"wish": texts[i]}, None, f"wish {i}") for i in numbers)


def task(judge: SeeingModel) -> Task:
    """Return the task: a wording that goes around every wish."""
    return Task(
        train=wishes(range(0, 24, 3)),
        validation=wishes(range(1, 24, 3)),
        test=wishes(range(2, 24, 3)),
        seed_prompt=Prompt("{wish}"),
        reward=Judge(judge, CRITERIA),
        description="The prompt is sent to an image model, and a judge says how well the picture shows the wish.",
        format="completion",
        max_tokens=1,
        name="text_to_image",
    )


def main(given: argparse.Namespace) -> Result:
    """Search, and keep the best wording."""
    price = None if given.price_of_a_picture is None else Price(0.0, 1e6 * given.price_of_a_picture)
    judge = SeeingModel(given.judge, base_url=given.base_url)
    return optimize(
        task(judge),
        PictureModel(given.model, given.folder / "pictures", base_url=given.base_url, price=price),
        "hillclimb",
        writer=OpenAIModel(given.judge, base_url=given.base_url),
        settings={"restarts": 1, "iterations": 3, "pool": 2, "proposals": 3, "longest": 300},
        budget=given.budget,
        run_dir=given.folder / "run",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt-image-1", help="draws")
    parser.add_argument("--judge", default="gpt-4.1-mini", help="sees pictures, scores them, and writes prompts")
    parser.add_argument("--base-url", help="of another server")
    parser.add_argument("--folder", type=Path, default=Path("runs/text_to_image"), help="for pictures and result")
    parser.add_argument("--budget", default="300 calls")
    parser.add_argument("--price-of-a-picture", type=float, help="in dollars; needed for a budget in dollars")
    print(main(parser.parse_args()))
