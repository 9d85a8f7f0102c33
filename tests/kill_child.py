"""Runs in processes of their own, for test_kill.py to kill: `python kill_child.py` forks one for each line that it reads.

A line is a JSON list, [KIND, [MEMO, RESULT, LOG], MOST, MODEL], KIND being "fake", "local", the name of a strategy, or
"build", which makes the model of "local"; the answer is the number of the process. What they import is imported once,
before the first fork. A run that is to be killed waits for that once its log has MOST lines.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toys

from promptopt import (
    FunctionModel,
    Memo,
    Prompt,
    PromptQuine,
    RandomSearch,
    Request,
    Response,
    Strategy,
    ToolCall,
    mcp_tools,
    optimize,
    tool,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from promptopt import Arrival, Ask, Example, Program, Prompts
    from promptopt.prompt import Context


MCP_SERVER = Path(__file__).parent / "servers" / "mcp_stock.py"


def log(path: str, record: Any) -> None:
    """Append one line, whole whatever happens next."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (json.dumps(record) + "\n").encode())
    os.close(handle)


def wait_if_long(path: str, most: float) -> None:
    """Wait to be killed, if the log has that many lines."""
    if most < math.inf and len(Path(path).read_bytes().splitlines()) >= most:
        time.sleep(600)


def fake(path: str, most: float) -> FunctionModel:
    def handler(request: Request) -> str | Response:
        body: dict[str, Any] = {
            "context": request.context,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": list(request.stop),
        }
        body |= {name: value for name in ("tools", "exchanges") if (value := getattr(request, name))}
        log(path, [body, request.replicate])
        wait_if_long(path, most)
        time.sleep(0.001)  # as slow as a fast endpoint, so that a kill lands in the middle
        if request.tools and not request.exchanges:
            arguments = json.dumps({"text": toys.text_of(request.context)})
            return Response("", tool_calls=(ToolCall("shorten", arguments),))
        return toys.answer(request) if "item" in toys.text_of(request.context)[-9:] else toys.writer(request)

    return FunctionModel(handler, name="killed", version="1")


def logged(path: str) -> Callable[[str], str]:
    @tool(version="1")
    def find(text: str) -> str:
        log(path, text)
        return toys.shortened(text)

    return find


def agent(tools: Sequence[Callable[..., Any]]) -> Program:
    async def program(ask: Ask, prompts: Prompts, example: Example) -> Response:
        return await ask.agent("read", example, tools=tools)

    return program


def local(path: str, folder: str, most: float) -> Any:
    import torch

    from promptopt.models.local import LocalModel

    torch.set_num_threads(1)  # two threads on such small matrices only wait for one another

    class Logged(LocalModel):
        def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
            log(path, [[{"context": context, "labels": list(labels)}, 0] for context in contexts])
            wait_if_long(path, most)
            yield from super().label_logprobs(contexts, labels)

    return Logged(folder, dtype="float32")


def main(kind: str, places: Sequence[str], most: float = math.inf, folder: str = "") -> None:
    if kind == "build":
        from tiny import build_llama

        build_llama(Path(folder))
        return
    memo, result, path = places
    budget = "6000 calls"
    strategy: Strategy | str
    if kind != "local":
        train, validation, test = (
            tuple(replace(item, inputs={"text": f"some other {item.inputs['text']}"}) for item in items)
            for items in toys.splits(24 if "unsupervised" in kind else 12).values()
        )
        task, model = replace(toys.TASK, train=train, validation=validation, test=test), fake(path, most)
        if kind == "components":
            task = replace(toys.PROGRAM_TASK, program=toys.program(logged(f"{path}.tool")))
        if kind == "agent":
            tools = mcp_tools([sys.executable, str(MCP_SERVER), f"{path}.tool"], version="1")
            task = replace(toys.PROGRAM_TASK, program=agent(tools))
            kind, budget = "components", "700 calls"
        strategy = RandomSearch(prompts=16, batch=4) if kind == "fake" else kind
    else:
        text = "Review: {text}\nIn one word, the sentiment of this item, as a careful reader would put it, is:"
        task = replace(toys.TASK, seed_prompt=Prompt(text), format="completion", template="")
        model = local(path, folder, most)
        strategy = replace(PromptQuine.paper(), population=6, offspring=12, recent=12, shortest=4)
    with Memo(memo) as store:
        optimize(task, model, strategy, memo=store, budget=budget).save(result)


def serve() -> None:
    """Fork a process for each line of standard input."""
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401  takes longest

    import promptopt.models.local  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that none is left behind
    for line in sys.stdin:
        process = os.fork()
        if not process:
            os.dup2(2, 1)  # only the numbers go to standard output
            try:
                main(*json.loads(line))
            except BaseException:  # noqa: BLE001  shown, for there is nobody to hand it to
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
