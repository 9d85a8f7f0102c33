"""Checks the images of a task against its model, before anything is sent. Reads no more of a file than its first bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.errors import InputError
from promptopt.images import check_file
from promptopt.models import HOSTED
from promptopt.models.base import ImageModel, without_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.images import Image
    from promptopt.models.base import Model
    from promptopt.prompt import Example
    from promptopt.task import Task


def check_images(task: Task, model: Model) -> None:
    """Refuse a task with images if its model takes none, or not all of them.

    Raises:
        InputError: the message names the example, the field and the fix.
    """
    if not task.images:
        return
    asked = without_batches(model)
    max_bytes = asked.max_image_bytes if isinstance(asked, ImageModel) else 0
    if not max_bytes:
        name, chats = asked.fingerprint.get("model", asked), [kind for kind in HOSTED if kind != "completions"]
        raise InputError(
            f"the task sends images ({', '.join(task.images)}), which the model {name!r} does not take: use a hosted chat model that "
            f"sees images ({', '.join(chats)})"
        )
    for image, where in _first_uses(task).items():
        try:
            check_file(image, max_bytes)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def _first_uses(task: Task) -> dict[Image, str]:
    """Return each image of a task, with the first example and field that hold it."""
    uses: dict[Image, str] = {}
    for example in _examples(task):
        for name in task.images:
            uses.setdefault(task.layout.image(name, example), f"example {example.id!r}, field {name!r}")
    return uses


def _examples(task: Task) -> Iterator[Example]:
    yield from (*task.train, *task.validation, *task.test)
    if task.seed_prompt.demonstrations is not None:
        yield from task.seed_prompt.demonstrations.items
