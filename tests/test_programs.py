"""Programs: several prompts, tools, what goes wrong in them, and the search of their prompts."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import toys
from results import data_of

from promptopt import (
    Ask,
    Components,
    Demonstrations,
    Example,
    FakeLabelModel,
    FakeModel,
    HillClimb,
    InputError,
    Joint,
    Price,
    Prompt,
    Prompts,
    Request,
    Response,
    Result,
    Run,
    Task,
    TransientModelError,
    Usage,
    as_program,
    diagnose,
    load_task,
    optimize,
    tool,
)
from promptopt.replies import Call, Failure
from promptopt.report.page import page
from promptopt.results.outcomes import read_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SEED = {"query": Prompt("Write a query for {text}."), "answer": Prompt("Answer {text} from {passages}.")}
WORDS = ("slowly", "exact", "loud", "short", "blue", "kindly")  # what the fake writer adds; two of them help


def lookup(query: str) -> list[str]:
    """The corpus: an exact query finds the item."""
    return [query] if "exact" in query else ["nothing"]


async def program(ask: Ask, prompts: Prompts, example: Example) -> Response:
    query = await ask("query", example)
    passages = await ask.tool(lookup, query.text)
    return await ask("answer", example, passages=" ".join(passages))


def said(request: Request) -> str:
    """The query repeats its prompt. A quarter of the answers need an exact query, a quarter a short answer, a quarter both."""
    text = toys.text_of(request.context)
    if " from " not in text:
        return text
    item = int(text.split("item")[1].split()[0].strip("."))
    found, short = "nothing" not in text, "short" in text
    return str(item) if (True, found, short, found and short)[item % 4] else "?"


def writes(request: Request) -> str:
    """Proposes the first prompt that it is shown with one more word; which, message and sample decide."""
    text = toys.text_of(request.context)
    if "<prompt>" not in text:
        return "ready"
    shown = text.split("<prompt>")[1].split("</prompt>")[0]
    at = zlib.crc32(f"{request.replicate} {text}".encode()) % len(WORDS)
    return "".join(f"<prompt>{WORDS[(at + i) % len(WORDS)]} {shown}</prompt>" for i in range(3))


def items(numbers: range) -> tuple[Example, ...]:
    return tuple(Example({"text": f"item{i}"}, f"{i}", f"{i}") for i in numbers)


def a_task(**changed: Any) -> Task:
    parts: dict[str, Any] = {
        "train": items(range(12)), "validation": items(range(12, 24)), "test": items(range(24, 48)),
        "seed_prompts": SEED, "program": program,
    }  # fmt: skip
    return Task(**(parts | changed))


@dataclass(frozen=True)
class Fixed:
    """A strategy that scores given prompts of a program."""

    candidates: tuple[Prompts, ...] = ()
    writes: bool = False
    programs: bool = True

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt, *self.candidates])


@dataclass
class Counting:
    """A handler that writes down what it was asked."""

    asked: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> str:
        self.asked.append(toys.text_of(request.context))
        return said(request)


BEST = Prompts({"query": Prompt("exact query for {text}."), "answer": Prompt("short: {text} from {passages}.")})


def run(memo: Path, task: Task, strategy: Any = None, handler: Callable[..., Any] = said, **more: Any) -> Result:
    strategy = Fixed((BEST,)) if strategy is None else strategy
    return optimize(task, FakeModel(handler, "m"), strategy, memo=memo, tracking=False, **more)


# ---------------------------------------------------------------- one program


def test_a_program_is_scored_chosen_and_tested_like_a_prompt(tmp_path: Path) -> None:
    result = run(tmp_path, a_task())
    assert result.prompt == BEST
    assert result.test is not None
    assert (result.test.seed.estimate, result.test.chosen.estimate) == (0.25, 1.0)
    assert result.improved
    assert result.used["task"].calls == 2 * result.used["tool"].calls  # each query is another
    assert "[query]\nexact query for {text}." in str(result)
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_all_programs_wait_together_and_a_replay_asks_and_runs_nothing(tmp_path: Path) -> None:
    ran: list[str] = []

    @tool(version="1")
    def noted(query: str) -> list[str]:
        ran.append(query)
        return lookup(query)

    async def own(ask: Ask, prompts: Prompts, example: Example) -> Response:
        query = await ask("query", example)
        return await ask("answer", example, passages=" ".join(await ask.tool(noted, query.text)))

    first = Counting()
    result = run(tmp_path, a_task(program=own), handler=_named(first))
    kinds = [" from " not in text for text in first.asked]
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        True,
        False,
    ] * 6  # first call, seed prompts, search, two blocks of validation, test
    assert (
        len(ran) == len(set(ran)) == 92
    )  # 48 items under two prompts, but for those that the race on validation items left out
    assert run(tmp_path, a_task(program=own), handler=_named(Counting())) == result
    assert len(ran) == 92


def _named(counting: Counting) -> Callable[[Request], str]:
    """A function of the same code for every counter, so that the memo knows the model again."""
    calls = counting.asked

    def handler(request: Request) -> str:
        _note(calls, toys.text_of(request.context))
        return said(request)

    return handler


def _note(calls: list[str], text: str) -> None:
    calls.append(text)


def test_a_trace_holds_what_was_asked_and_said_and_rewards_see_it(tmp_path: Path) -> None:
    seen: list[tuple[Call, ...]] = []

    def reward(example: Example, response: Response) -> float:
        seen.append(response.trace)
        return float(response.text == example.target)

    run(tmp_path, a_task(reward=reward))
    query, searched, answer = seen[2]  # the first example was the first call too
    assert query == Call("query", (("text", "item1"),), "Write a query for item1.")
    assert searched == Call("tool:lookup", (("arguments", '[["Write a query for item1."], {}]'),), '["nothing"]')
    assert answer == Call("answer", (("text", "item1"), ("passages", "nothing")), "?")


def test_gathered_calls_go_out_together_and_repeats_are_samples_only_at_a_temperature(tmp_path: Path) -> None:
    async def votes(ask: Ask, prompts: Prompts, example: Example) -> str:
        async def twice() -> str:
            first = await ask("answer", example, passages="a")
            second = await ask("answer", example, passages=first.text)
            return second.text

        texts = await ask.gather(twice(), ask("answer", example, passages="a"), ask("answer", example, passages="a"))
        assert await ask.gather() == []
        return f"{texts[0]} {texts[1].text == texts[2].text}"

    replicates: list[int] = []

    def handler(request: Request) -> str:
        replicates.append(request.replicate)
        return f"{request.replicate}"

    for temperature, different in ((0.0, {0}), (1.0, {0, 1 << 20, 2 << 20})):
        replicates.clear()
        task = a_task(program=votes, temperature=temperature, train=items(range(1)), validation=(), test=())
        run(tmp_path / str(temperature), task, Fixed(), handler)
        assert set(replicates) == different


def test_a_text_may_be_returned_and_prompts_without_slots_get_all_fields(tmp_path: Path) -> None:
    async def plain(ask: Ask, prompts: Prompts, example: Example) -> str:
        reply = await ask("answer", example, hint="x")
        return reply.text.upper()

    asked = Counting()
    task = a_task(program=plain, seed_prompts={"answer": Prompt("Answer.", Demonstrations(items(range(90, 91))))})
    with pytest.raises(InputError, match=r"demonstration '90' of the prompt 'answer' has no field 'hint'"):
        run(tmp_path, task, Fixed(), asked)
    run(tmp_path, replace(task, seed_prompt=Prompts({"answer": Prompt("Answer.")})), Fixed(), asked)
    assert asked.asked[0] == "Answer.\ntext: item0\nhint: x"


def test_a_model_with_log_probabilities_chooses_and_any_other_writes(tmp_path: Path) -> None:
    seen: list[Response] = []

    async def chooses(ask: Ask, prompts: Prompts, example: Example) -> str:
        reply = await ask("answer", example, passages="a", choices=("?", example.inputs["text"][4:]))
        seen.append(reply)
        return reply.text

    def logprobs(context: Any, labels: Sequence[str]) -> list[float]:
        return [-2.0 if label == "?" else -1.0 for label in labels]

    task = a_task(program=chooses, validation=())
    result = optimize(task, FakeLabelModel(logprobs), Fixed(), memo=tmp_path, tracking=False)
    assert result.test is not None
    assert result.test.seed.estimate == 1.0
    assert seen[0].logprobs_of(("0", "?")) == (-1.0, -2.0)
    seen.clear()
    result = run(tmp_path, task, Fixed())
    assert result.test is not None
    assert result.test.seed.estimate == 0.5  # by what it writes
    assert seen[0].label_logprobs is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"choices": ("a",)}, "choices must be two or more different texts"),
        ({"choices": ("a", "a")}, "choices must be two or more different texts"),
        ({"choices": "ab"}, "choices must be two or more different texts"),
        ({"choices": ("a", "b"), "tools": [lookup]}, "give choices or tools"),
    ],
)
def test_choices_that_are_none_are_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    async def wrong(ask: Ask, prompts: Prompts, example: Example) -> Response:
        return await ask("answer", example, passages="a", **more)

    with pytest.raises(InputError, match=message):
        run(tmp_path, a_task(program=wrong))


def test_a_prompt_may_have_a_model_of_its_own(tmp_path: Path) -> None:
    async def two(ask: Ask, prompts: Prompts, example: Example) -> Response:
        query = await ask("query", example, model="small")
        return await ask("answer", example, passages=query.text)

    def small(request: Request) -> str:
        return "exact" if "exact" in toys.text_of(request.context) else "nothing"

    async def misspelt(ask: Ask, prompts: Prompts, example: Example) -> Response:
        return await ask("query", example, model="smal")

    dear = FakeModel(said, "m")
    models = {"small": FakeModel(small, "small")}
    dear.price = Price(1.0, 1.0)
    result = optimize(
        a_task(program=two, models=models), dear, Fixed((BEST,)), memo=tmp_path, budget="2 dollars", tracking=False
    )
    assert result.used["small"].calls == result.used["task"].calls > 0
    assert result.prompt == BEST
    assert list(result.models) == ["task", "small"]
    assert result.test is not None
    assert result.test.costs is None  # two prices
    with pytest.raises(InputError, match=r"no model 'smal', did you mean 'small'\?; the models: small"):
        run(tmp_path, a_task(program=misspelt, models=models), Fixed())
    with pytest.raises(InputError, match="models by name, but no program"):
        Task(train=items(range(2)), seed_prompt=Prompt("x"), models=models)


def test_a_tool_uses_no_tokens_of_a_budget(tmp_path: Path) -> None:
    async def long(ask: Ask, prompts: Prompts, example: Example) -> Response:
        found = await ask.tool(lookup, "exact" + "long " * 100_000)
        return await ask("answer", example, passages=found[0][:5])

    def reports(request: Request) -> Response:
        return Response(said(request), usage=Usage(20, output=2))

    result = run(tmp_path, a_task(program=long), Fixed(), reports, budget="2000 tokens")
    assert result.used["tool"].calls == 1
    assert result.used["tool"].tokens == 0
    assert result.test is not None


# ---------------------------------------------------------------- what goes wrong


async def unknown(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("anwser", example)


async def empty(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example)


async def number(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example, passages=3)  # type: ignore[arg-type]


async def nothing(ask: Ask, prompts: Prompts, example: Example) -> None:
    await ask("query", example)


async def sleeping(ask: Ask, prompts: Prompts, example: Example) -> Response:
    await asyncio.sleep(1)
    return await ask("query", example)


async def yielding(ask: Ask, prompts: Prompts, example: Example) -> Response:
    await asyncio.sleep(0)
    return await ask("query", example)


_NUMBERS = itertools.count()


async def drawn(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example, passages=str(next(_NUMBERS)))


def no_coroutine(ask: Ask, prompts: Prompts, example: Example) -> str:
    return "5"


async def odd_tool(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example, passages=await ask.tool(lookup, {1, 2}))


async def object_tool(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example, passages=await ask.tool(Counting(), "a"))


class Index:
    """Something that cannot be compared across processes."""


def _search_of(index: Index) -> Callable[[str], str]:
    def search(query: str) -> str:
        return f"{index} {query}"

    return search


async def closure_tool(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("answer", example, passages=await ask.tool(_search_of(Index()), "a"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (unknown, r"no prompt 'anwser', did you mean 'answer'\?; the prompts: query, answer"),
        (
            empty,
            r"nothing fills the slot \{passages\} of the prompt 'answer': write ask\('answer', example, passages=\.\.\.\)",
        ),
        (number, r"fills the slot 'passages' of 'answer' with 3: give a text"),
        (nothing, r"the program returned None: return a response of ask, or a text"),
        (sleeping, r"awaits something other than ask .*await ask\.tool\(function"),
        (yielding, r"awaits something other than ask"),
        (drawn, r"run again on example '0', the program asked for something else"),
        (no_coroutine, r"must be written `async def program"),
        (odd_tool, r"arguments of the tool 'lookup' must be JSON values"),
        (object_tool, r"a tool is a function, not Counting"),
        (closure_tool, r"cannot tell what the tool 'search' does.*tool\(version='1'\)"),
    ],
)
def test_a_program_that_cannot_work_is_refused_at_its_first_call(tmp_path: Path, wrong: Any, message: str) -> None:
    asked = Counting()
    with pytest.raises(InputError, match=message):
        run(tmp_path, a_task(program=wrong), Fixed(), asked)
    assert len(asked.asked) <= 1 + 12  # the call to each model, and the seed prompts on the training examples


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed_prompts": None}, "no seed prompt: give seed_prompt"),
        ({"seed_prompts": None, "seed_prompt": Prompt("x")}, r"its prompts by name: give seed_prompts="),
        ({"program": None}, "several prompts, but no program"),
        ({"seed_prompt": Prompt("x")}, "both seed_prompt and seed_prompts"),
        ({"seed_prompts": {}}, "give at least one"),
        ({"seed_prompts": {"a": "text"}}, r"prompts are \{name: Prompt"),
        ({"program": "answer"}, "program must be an `async def"),
        ({"max_calls": 0}, "max_calls must be at least 1"),
        ({"models": {"writer": FakeModel(said)}}, "the name 'writer' of a model is reserved in results"),
    ],
)
def test_a_task_says_what_a_program_needs(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        a_task(**changed)


def test_strategies_for_one_prompt_and_for_programs_are_not_mixed_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Joint searches one prompt.*--strategy components"):
        run(tmp_path, a_task(), Joint())
    single = Task(train=items(range(4)), seed_prompt=Prompt("Say."))
    with pytest.raises(InputError, match="Components searches the prompts of a program, and the task has none"):
        run(tmp_path, single, Components())


def failing(item: str) -> str:
    raise ValueError(f"no {item}")


async def broken(ask: Ask, prompts: Prompts, example: Example) -> Response:
    if example.id == "7":
        raise KeyError("7")
    if example.id == "8":
        return await ask("answer", example, passages=await ask.tool(failing, "index"))
    while example.id == "9":
        await ask("query", example)
    return await ask("query", example)


def test_an_exception_a_failed_tool_and_an_endless_loop_fail_their_cell_only(tmp_path: Path) -> None:
    kept: list[Any] = []

    @dataclass(frozen=True)
    class Looking(Fixed):
        def search(self, run: Run) -> None:
            kept.extend(reply for (reply,) in run.score([run.task.seed_prompt]).replies[0])

    result = run(tmp_path, a_task(program=broken, max_calls=5), Looking())
    failures = {i: reply.reason for i, reply in enumerate(kept) if isinstance(reply, Failure)}
    assert sorted(failures) == [7, 8, 9]
    assert failures[7].startswith("the program raised KeyError: '7' (line ")
    assert failures[8].startswith("tool:failing: it raised ValueError: no index (line ")
    assert failures[9].startswith("the program makes more than 5 calls")
    assert result.history[0].failed == 3
    assert result.unfinished


def test_code_that_asks_models_by_itself_is_a_program(tmp_path: Path) -> None:
    calls: list[tuple[dict[str, str], dict[str, str]]] = []
    running: list[str] = []
    at_once: list[int] = []
    lock = threading.Barrier(2, timeout=20)

    def pipeline(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        calls.append((prompts, inputs))
        running.append(inputs["text"])
        at_once.append(len(running))
        if inputs["text"] in ("item1", "item2") and len(calls) < 4:
            lock.wait()  # the first two after the first call: both are under way together
        running.remove(inputs["text"])
        found, short = "exact" in prompts["query"], "short" in prompts["answer"]
        kind = int(inputs["text"][4:])
        return f"{kind}" if (True, found, short, found and short)[kind % 4] else "?"

    task = a_task(program=as_program(pipeline, version="1", threads=2))
    strategy = Components(patience=20)
    result = optimize(task, FakeModel(writes, "w"), strategy, memo=tmp_path, tracking=False, budget="3000 calls")
    assert isinstance(result.prompt, Prompts)
    assert result.test is not None
    assert result.test.chosen.estimate == 1.0
    assert "exact" in result.prompt["query"].text
    assert all(prompt.demonstrations is None for record in result.history for _, prompt in record.prompt.components)  # type: ignore[attr-defined]
    assert max(at_once) == 2
    assert list(result.used) == ["tool", "writer"]  # the model is asked for prompts alone
    made = len(calls)
    lock.reset()
    assert (
        optimize(task, FakeModel(writes, "w"), strategy, memo=tmp_path, tracking=False, budget="3000 calls") == result
    )
    assert len(calls) == made


def test_such_code_may_fill_slots_of_its_own(tmp_path: Path) -> None:
    def pipeline(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        filled = prompts["answer"].replace("{found}", inputs["text"])
        return inputs["text"].removeprefix("item") if "short" in filled else "?"

    prompts = {"answer": Prompt("Answer from {found}.")}
    task = a_task(program=as_program(pipeline, version="1"), seed_prompts=prompts)
    result = run(tmp_path, task, Components(), writer=FakeModel(writes, "w"), budget="2000 calls")
    assert isinstance(result.prompt, Prompts)
    assert "short" in result.prompt["answer"].text
    assert all("{found}" in record.prompt.text for record in result.history)


def test_a_failure_in_such_code_fails_its_cell_and_its_memo_needs_a_version(tmp_path: Path) -> None:
    def pipeline(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        raise TimeoutError("no reply from the service")

    with pytest.raises(
        TransientModelError, match=r"tool:pipeline: it raised TimeoutError: no reply from the service \(line "
    ):
        run(tmp_path, a_task(program=as_program(pipeline, version="1")), Fixed())
    with pytest.raises(InputError, match="version of a tool must be a text such as '1', not 1"):
        as_program(pipeline, version=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads must be at least 1, not 0"):
        as_program(pipeline, version="1", threads=0)
    with pytest.raises(InputError, match="diagnose compares wordings of one prompt"):
        diagnose(a_task(), FakeModel(said))


# ---------------------------------------------------------------- files


PROGRAM_FILE = """
async def answer(ask, prompts, example):
    query = await ask("query", example)
    return await ask("answer", example, passages=query.text)


def plain(ask, prompts, example):
    return "5"


def pipeline(prompts, inputs):
    number = inputs["text"].removeprefix("item")
    return number if "exact" in prompts["query"] or number == "3" else "?"
"""
TASK_FILE = """
program = "own:answer"
max_calls = 7
[prompts]
query = "Write a query for {text}."
answer = "Answer {text} from {passages}."
[data]
file = "rows.csv"
inputs = ["text"]
label = "n"
"""


def task_file(folder: Path, text: str = TASK_FILE) -> Path:
    (folder / "own.py").write_text(PROGRAM_FILE, encoding="utf-8")
    rows = "".join(f"item{i},{i}\n" for i in range(20))
    (folder / "rows.csv").write_text(f"text,n\n{rows}", encoding="utf-8")
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder / "task.toml"


def test_a_task_file_names_a_program_and_its_prompts(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path))
    assert task.seed_prompt == Prompts(SEED)
    assert task.max_calls == 7
    result = run(tmp_path / "memo", task, Fixed(), run_dir=tmp_path / "run")
    again = run(tmp_path / "memo", load_task(task_file(tmp_path)), Fixed(), run_dir=tmp_path / "run")
    assert result == again == Result.load(tmp_path / "run")


def test_prompts_in_files_go_in_and_better_ones_come_out(tmp_path: Path) -> None:
    folder = '"own:pipeline"\nversion = "1"\nprompts = "texts"'
    text = TASK_FILE.replace('program = "own:answer"\nmax_calls = 7', f"predict = {folder}")
    file = task_file(tmp_path, text[: text.index("[prompts]")] + text[text.index("[data]") :])
    with pytest.raises(InputError, match=r"no folder .*texts with files such as answer\.txt"):
        load_task(file)
    (tmp_path / "texts").mkdir()
    for name, prompt in SEED.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{prompt.text}\n", encoding="utf-8")
    task = load_task(file)
    assert task.seed_prompt == Prompts({name: SEED[name] for name in ("answer", "query")})
    result = run(tmp_path / "memo", task, Fixed((BEST,)), run_dir=tmp_path / "run")
    assert result.test is not None
    assert result.test.chosen.estimate == 1.0
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "run" / "chosen-prompts").iterdir()}
    assert written == {"query.txt": "exact query for {text}.\n", "answer.txt": "short: {text} from {passages}.\n"}
    shown = Prompts({"query": Prompt("exact", Demonstrations(items(range(90, 91)))), "answer": BEST["answer"]})
    run(tmp_path / "memo", task, Fixed((shown,)), run_dir=tmp_path / "run", overwrite=True)
    assert (
        Prompt.from_json(json.loads((tmp_path / "run" / "chosen-prompts" / "query.json").read_text())) == shown["query"]
    )
    (tmp_path / "texts" / "query.md").write_text("again", encoding="utf-8")
    with pytest.raises(InputError, match="two files for the prompt 'query'"):
        load_task(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('program = "own:answer"', "", "has prompts, but no program"),
        ('program = "own:answer"', 'predict = "own:pipeline"', "has predict, but no version"),
        ('program = "own:answer"', 'program = "own:answer"\nversion = "1"', "has version, but no predict"),
        ("max_calls = 7", 'predict = "own:pipeline"', "has both program and predict"),
        ("[prompts]", "[prompts_]", "prompts_"),
        ('program = "own:answer"', 'program = "own:answer"\nseed_prompt = "x"', "both seed_prompt and a program"),
        ("own:answer", "own:anwser", "has no 'anwser', did you mean 'answer'"),
        ("own:answer", "own:plain", "must be written `async def program"),
        ("own:answer", "answer", "program = 'answer' is not a function: give module:function"),
    ],
)
def test_a_task_file_that_cannot_be_used_says_what_to_change(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(task_file(tmp_path, TASK_FILE.replace(old, new, 1)))


def test_the_calls_of_each_test_item_are_in_the_file_and_in_the_report(tmp_path: Path) -> None:
    result = run(tmp_path / "memo", a_task(), run_dir=tmp_path / "run")
    read = read_outcomes(tmp_path / "run" / "test.jsonl")
    assert result.test is not None
    assert read == result.test.outcomes
    assert [call.name for call in read[0].chosen.trace] == ["query", "tool:lookup", "answer"]
    line = json.loads((tmp_path / "run" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["seed"]["trace"][0] == {
        "name": "query", "inputs": {"text": "item24"}, "reply": "Write a query for item24."
    }  # fmt: skip
    shown = data_of(page(result, read))["outcomes"][0]["seed"]["trace"]
    assert [name for name, _, _ in shown] == ["query", "tool:lookup", "answer"]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (("prompt", "prompts"), {}),
        (("prompt", "prompts", "query"), 3),
        (("seed_prompt", "prompts", "query", "text"), None),
        (("history", 0, "prompt"), {"prompts": {"query": "text"}}),
        (("history",), 3),
    ],
)
def test_a_result_with_malformed_prompts_is_refused(tmp_path: Path, part: tuple[Any, ...], wrong: Any) -> None:
    values: Any = json.loads(json.dumps(run(tmp_path, a_task(test=()), Fixed()).to_json()))
    place = values
    for step in part[:-1]:
        place = place[step]
    place[part[-1]] = wrong
    with pytest.raises(InputError, match="malformed"):
        Result.from_json(values)


@pytest.mark.parametrize("trace", [3, [3], [{"name": "a"}], [{"name": "a", "inputs": 3, "reply": "b"}]])
def test_outcomes_with_a_malformed_trace_are_refused(tmp_path: Path, trace: Any) -> None:
    answer = {"text": "a", "reward": 1.0, "reason": "", "finish": "stop", "events": []}
    line = {"id": "1", "inputs": {}, "target": None, "seed": answer, "chosen": {**answer, "trace": trace}}
    (tmp_path / "test.jsonl").write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(InputError, match="does not hold the test replies"):
        read_outcomes(tmp_path / "test.jsonl")


# ---------------------------------------------------------------- components


@dataclass(frozen=True)
class On:
    """A strategy that runs another one on one component."""

    name: str
    inner: Any
    programs: bool = True

    @property
    def writes(self) -> bool:
        return bool(self.inner.writes)

    def search(self, run: Run) -> None:
        self.inner.search(run.component(self.name))


@pytest.mark.parametrize("inner", [HillClimb(iterations=2, restarts=1), Joint(patience=3)])
def test_a_strategy_for_one_prompt_works_on_a_component(tmp_path: Path, inner: Any) -> None:
    half = {"query": BEST["query"], "answer": SEED["answer"]}
    result = run(
        tmp_path, a_task(seed_prompts=half), On("answer", inner), writer=FakeModel(writes, "w"), budget="4000 calls"
    )
    assert isinstance(result.prompt, Prompts)
    assert result.prompt["query"] == half["query"]
    assert "short" in result.prompt["answer"].text
    assert result.improved
    assert {record.parent for record in result.history} == {None, 0}
    assert all(isinstance(record.prompt, Prompts) for record in result.history)


def test_a_component_sees_its_own_inputs_replies_and_the_targets_that_are_its_own(tmp_path: Path) -> None:
    runs: dict[str, Run] = {}

    @dataclass(frozen=True)
    class Looking(Fixed):
        def search(self, run: Run) -> None:
            runs.update({name: run.component(name) for name in SEED})
            scores = runs["query"].score([Prompt("exact query: {text}")])
            assert scores.replies[0][3][0].text == "exact query: item3"  # type: ignore[union-attr]
            assert len(run.archive) == 2

    run(tmp_path, a_task(), Looking())
    answer, query = (runs[name].task.train[3] for name in ("answer", "query"))
    assert answer == Example({"text": "item3", "passages": "nothing"}, "3", "3")
    assert query == Example({"text": "item3"}, None, "3")
    assert runs["query"].task.train[4].target == "Write a query for item4."  # the reward was right there
    assert "the others (answer) stay as they are" in runs["query"].task.description


def test_a_component_that_is_unknown_or_never_asked_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Looking(Fixed):
        def search(self, run: Run) -> None:
            with pytest.raises(InputError, match="no prompt 'quary', did you mean 'query'"):
                run.component("quary")
            with pytest.raises(InputError, match="asks the prompt 'spare' on no training example"):
                run.component("spare")

    run(tmp_path, a_task(seed_prompts={**SEED, "spare": Prompt("Nobody asks.")}), Looking())
    with pytest.raises(InputError, match="only a program has components"):
        run(tmp_path, Task(train=items(range(4)), seed_prompt=Prompt("Say.")), On("a", Joint(), programs=False))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.wide) for seed in range(1, 10))])
def test_components_finds_the_best_prompts_of_a_program_and_repeats_without_a_call(tmp_path: Path, seed: int) -> None:
    settings: dict[str, Any] = {"writer": FakeModel(writes, "w"), "budget": "4000 calls", "seed": seed}
    result = run(tmp_path, a_task(), "auto", **settings)
    assert result.strategy["name"] == "Components"
    assert isinstance(result.prompt, Prompts)
    assert result.test is not None
    assert result.test.chosen.estimate == 1.0
    again = run(tmp_path, a_task(), "auto", handler=said, **settings)
    assert again == result
    assert sum(spent.calls for spent in again.paid.values()) == 0


def test_components_shows_a_prompt_its_own_right_answers_without_a_writer(tmp_path: Path) -> None:
    def shown_helps(request: Request) -> str:
        text = toys.text_of(request.context)
        if "query" in text.splitlines()[-1]:
            return "exact" if "exact" in text or "item0" in text.splitlines()[-1] else "?"
        return text.split("item")[-1].split()[0] if "nothing" not in text else "?"

    async def own(ask: Ask, prompts: Prompts, example: Example) -> Response:
        query = await ask("query", example)
        return await ask("answer", example, passages=" ".join(await ask.tool(lookup, query.text)))

    prompts = {"query": Prompt("query for {text}"), "answer": Prompt("{passages} {text}")}
    result = run(tmp_path, a_task(program=own, seed_prompts=prompts), Components(instructions=0), shown_helps)
    assert isinstance(result.prompt, Prompts)
    shown = result.prompt["query"].demonstrations
    assert shown is not None
    assert {item.target for item in shown.items} == {"exact"}
