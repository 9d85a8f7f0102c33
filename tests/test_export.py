"""Every exported form loads, and gives the request that the scorer sends, to the byte."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import a_result
from shell import promptopt

from promptopt import Demonstrations, Example, FakeModel, InputError, Memo, Message, Predictor, Prompt, Prompts, Task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.models.base import Request
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.prompt import Layout
from promptopt.results.export import FORMS, export, openai_batch
from promptopt.results.portable import PortablePrompt
from promptopt.results.saved_prompt import read_prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from promptopt.prompt import Context

INPUTS = {"question": 'Is "{hint}" 5 < 6?\n{{ 7 }} \\n \N{THINKING FACE}', "hint": "yes\r\nno {% raw %}"}
NASTY = (
    '\u2028\x7fSay {json: "a"} or {} {other} \\d \N{THINKING FACE}\r\n\ttab {# no #} {% no %} {"x": {{"y": 1}}} 100 % {'
)
SHOWN = (
    Example({"question": "One and {hint}?", "hint": "1"}, "two", "a"),
    Example({"question": 'Is "6" {5}?', "hint": "yes"}, "no\n{", "b"),
    Example({"question": "Why?", "hint": ""}, "because", "c"),
)
TEMPLATE = "Q: {question}\nHint: {hint}\nA:"
ALL, NEAREST = Demonstrations(SHOWN), Demonstrations(SHOWN, nearest=2)
CHAT, TEXT = Layout(("question", "hint"), TEMPLATE), Layout(("question", "hint"), TEMPLATE, "completion")
TURNS = (Message("user", "Before {question}?"), Message("assistant", "Before."))
PROMPTS = {
    "slots": PortablePrompt(prompt=Prompt(f"{NASTY}{{question}}}}\n({{hint}})"), layout=CHAT),
    "system": PortablePrompt(prompt=Prompt(NASTY), layout=CHAT),
    "plain": PortablePrompt(prompt=Prompt("Answer in a word."), layout=CHAT, name="a/b c"),
    "empty": PortablePrompt(prompt=Prompt(""), layout=CHAT),
    "shown": PortablePrompt(prompt=Prompt(NASTY, ALL, TURNS), layout=CHAT),
    "shown-plainly": PortablePrompt(prompt=Prompt("Answer.", ALL), layout=CHAT),
    "shown-slots": PortablePrompt(prompt=Prompt("{question} ({hint})", ALL), layout=CHAT),
    "nearest": PortablePrompt(prompt=Prompt(NASTY, NEAREST), layout=CHAT),
    "completion": PortablePrompt(prompt=Prompt("Answer {it}."), layout=TEXT),
    "completion-slots": PortablePrompt(prompt=Prompt("Q {question} {hint}"), layout=TEXT),
    "completion-shown": PortablePrompt(prompt=Prompt("", Demonstrations(SHOWN[2:])), layout=TEXT),
    "completion-nearest": PortablePrompt(prompt=Prompt(NASTY, NEAREST), layout=TEXT),
}
CHATS = {name for name in PROMPTS if not name.startswith("completion")}
DIFFERING = {"nearest", "completion-nearest"}
REFUSED = {  # form -> what it cannot hold
    "text": {"slots", "system", "shown", "shown-plainly", "shown-slots", *DIFFERING},  # line ends; turns
    "messages": PROMPTS.keys() - CHATS | DIFFERING,
    "jinja": DIFFERING,
    "promptfoo": DIFFERING,
    "langchain": DIFFERING,
    "dspy": PROMPTS.keys() - CHATS,  # it would add words to a text
    "mlflow": {"slots", "system", "shown", *DIFFERING},  # tags of its own
}


def sent(portable: PortablePrompt, folder: Path, inputs: dict[str, str] = INPUTS) -> Context:
    """Return what the scorer sends for an example."""
    seen: list[Context] = []

    def reply(request: Request) -> str:
        seen.append(request.context)
        return "yes"

    example = Example(inputs, "yes", "new")
    task = Task(
        train=(example,),
        seed_prompt=Prompt("{question} {hint}"),
        template=portable.layout.template,
        format=portable.layout.format,
    )
    with Memo(folder / "memo") as memo:
        Scorer(task, FakeModel(reply), Caller(memo, Ledger())).score([portable.prompt], [example])
    return seen[0]


def as_context(values: Any) -> Context:
    """Return the context that messages, or a text, are."""
    return values if isinstance(values, str) else tuple(Message(turn["role"], turn["content"]) for turn in values)


def read_text_form(text: str, portable: PortablePrompt, inputs: dict[str, str], folder: Path) -> Context:
    (folder / "prompt.txt").write_text(text, encoding="utf-8", newline="")
    return portable.layout.render(read_prompt(folder / "prompt.txt"), Example(inputs, None, ""))


def read_messages(text: str, _: PortablePrompt, inputs: dict[str, str], __: Path) -> Context:
    *before, last = json.loads(text)
    filled = re.sub("|".join(rf"{{{name}}}" for name in inputs), lambda match: inputs[match[0][1:-1]], last["content"])
    return as_context([*before, {**last, "content": filled}])


def read_python(text: str, _: PortablePrompt, inputs: dict[str, str], __: Path) -> Context:
    names: dict[str, Any] = {}
    exec(compile(text, "prompt.py", "exec"), names)  # noqa: S102  our own
    return as_context((names.get("messages") or names["text"])(inputs))


def read_json_form(text: str, _: PortablePrompt, inputs: dict[str, str], __: Path) -> Context:
    return PortablePrompt.from_json(json.loads(text)).render(inputs)


def rendered(template: str, inputs: dict[str, str]) -> str:
    jinja2 = pytest.importorskip("jinja2", reason="needs Jinja, as of the extra 'report'")
    text: str = jinja2.Environment(autoescape=False, keep_trailing_newline=True).from_string(template).render(inputs)
    return text


def read_jinja(text: str, portable: PortablePrompt, inputs: dict[str, str], _: Path) -> Context:
    found = rendered(text.removesuffix("\n"), inputs)
    return found if portable.layout.format == "completion" else as_context(json.loads(found))


def read_promptfoo(text: str, portable: PortablePrompt, inputs: dict[str, str], _: Path) -> Context:
    """Render as promptfoo does: JSON text by text. Its Nunjucks has the syntax of Jinja in all that is used here."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    raw = yaml.safe_load(text)["prompts"][0]["raw"]
    if portable.layout.format == "completion":
        return rendered(raw, inputs)
    return as_context([{**turn, "content": rendered(turn["content"], inputs)} for turn in json.loads(raw)])


def read_dspy(text: str, _: PortablePrompt, inputs: dict[str, str], __: Path) -> Context:
    pytest.importorskip("dspy", reason="needs DSPy")
    import dspy

    seen: list[Any] = []

    class Recording(dspy.BaseLM):  # type: ignore[misc]  # DSPy comes without types
        def __call__(self, prompt: str | None = None, messages: Any = None, **_: Any) -> list[str]:
            assert prompt is None
            seen.append(messages)
            return ["yes"]

    names: dict[str, Any] = {}
    exec(compile(text, "prompt.py", "exec"), names)  # noqa: S102  our own
    with dspy.context(lm=Recording("recording")):
        assert names["Answer"]()(**inputs).output == "yes"
    return as_context(seen[0])


def read_langchain(text: str, portable: PortablePrompt, inputs: dict[str, str], _: Path) -> Context:
    loading = pytest.importorskip("langchain_core.load", reason="needs langchain-core")
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain calls its loading a beta
        prompt = loading.loads(text, allowed_objects="core")
    if portable.layout.format == "completion":
        return str(prompt.format(**inputs))
    messages = prompt.format_messages(**inputs)
    return tuple(Message(roles[message.type], message.content) for message in messages)  # type: ignore[arg-type]


def read_mlflow(text: str, _: PortablePrompt, inputs: dict[str, str], __: Path) -> Context:
    registry = pytest.importorskip("mlflow.entities.model_registry.prompt_version", reason="needs the extra 'mlflow'")
    values = json.loads(text)
    return as_context(registry.PromptVersion(values["name"], 1, values["template"]).format(**inputs))


READERS: dict[str, Callable[[str, PortablePrompt, dict[str, str], Path], Context]] = {
    "text": read_text_form,
    "messages": read_messages,
    "python": read_python,
    "json": read_json_form,
    "jinja": read_jinja,
    "promptfoo": read_promptfoo,
    "dspy": read_dspy,
    "langchain": read_langchain,
    "mlflow": read_mlflow,
}


def test_every_form_has_a_reader() -> None:
    assert READERS.keys() == FORMS.keys()


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_what_the_scorer_sends(form: str, name: str, tmp_path: Path) -> None:
    portable = PROMPTS[name]
    if name in REFUSED.get(form, set()):
        with pytest.raises(InputError, match=f"--as {form} .*: use --as "):
            export(portable, form)
        return

    assert READERS[form](export(portable, form), portable, INPUTS, tmp_path) == sent(portable, tmp_path)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_renders_what_the_scorer_sends(name: str, tmp_path: Path) -> None:
    portable, layout = PROMPTS[name], PROMPTS[name].layout
    result = a_result(prompt=portable.prompt, layout=layout)
    expected = sent(portable, tmp_path)

    assert portable.prompt.render(INPUTS, template=TEMPLATE, format=layout.format) == expected
    assert result.render(INPUTS) == portable.render({**INPUTS, "more": "{question}"}) == expected
    if name in CHATS:
        assert as_context(portable.prompt.messages(INPUTS, template=TEMPLATE)) == expected
        assert as_context(result.messages(INPUTS)) == expected


BRACES = st.text(st.sampled_from("{}%#\"'\\ \n\ra"), max_size=12)


@settings(max_examples=60)
@given(texts=st.tuples(BRACES, BRACES, BRACES, BRACES))
@pytest.mark.parametrize("format_", ["chat", "completion"])
@pytest.mark.parametrize("form", ["python", "jinja", "promptfoo", "mlflow", "langchain"])
def test_braces_and_quotes_are_kept(form: str, format_: Any, texts: tuple[str, ...]) -> None:
    before, between, target, value = texts
    shown = Demonstrations((Example({"question": "q", "hint": before}, target or "t", "a"),))
    prompt = Prompt(f"{before}{{question}}{between}{{hint}}{target}", shown)
    portable = PortablePrompt(prompt=prompt, layout=Layout(("question", "hint"), "{question}", format_))
    inputs = {"question": "a", "hint": value if form != "mlflow" else "a"}
    try:
        written = export(portable, form)
    except InputError:
        assert form == "mlflow"
        return

    assert READERS[form](written, portable, inputs, None) == portable.render(inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_line_of_a_batch_is_the_body_that_the_model_is_sent(name: str, tmp_path: Path) -> None:
    request = {"format": PROMPTS[name].layout.format, "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["\n"]}
    portable = replace(PROMPTS[name], request=request | {"extra_body": {"seed": 3}}, model="gpt-4.1-mini")
    model = OpenAIModel("gpt-4.1-mini", api_key="none", extra_body={"seed": 3})
    context = sent(portable, tmp_path)
    asked = Request(context=context, max_tokens=7, temperature=0.5, top_p=0.9, stop=("\n",))

    lines = openai_batch(portable, [INPUTS, {**INPUTS, "hint": ""}]).split("\n")

    first, second, end = (json.loads(line or "null") for line in lines)
    assert first["body"] == model.body(asked)
    assert first["url"] == model.path(asked)
    assert (first["method"], first["custom_id"], second["custom_id"], end) == ("POST", "row-1", "row-2", None)


def test_a_batch_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="needs the name of a model: give --model"):
        openai_batch(PROMPTS["plain"], [INPUTS])
    with pytest.raises(InputError, match="row 2: the input has no field 'hint', only \\['question'\\]: give it"):
        openai_batch(PROMPTS["plain"], [INPUTS, {"question": "?"}], "m")
    with pytest.raises(InputError, match="top_k = 3"):
        openai_batch(replace(PROMPTS["plain"], request={"top_k": 3}), [INPUTS], "m")


def test_captions_are_text_and_nothing_that_holds_messages() -> None:
    caption = PortablePrompt(prompt=Prompt("a photo of a {label}"), layout=Layout(("label",), "{label}", "caption"))

    assert export(caption, "text") == "a photo of a {label}\n"
    assert PortablePrompt.from_json(json.loads(export(caption, "json"))) == caption
    for form in FORMS.keys() - {"text", "json"}:
        with pytest.raises(InputError, match=f"--as {form} .* caption"):
            export(caption, form)
    with pytest.raises(InputError, match=r"openai-batch .* caption"):
        openai_batch(caption, [])


@pytest.mark.parametrize("form", ["jinja", "promptfoo", "langchain", "mlflow"])
def test_a_field_that_is_no_variable_is_refused(form: str) -> None:
    odd = PortablePrompt(prompt=Prompt("{a b}"), layout=Layout(("a b",), "{a b}"))

    with pytest.raises(InputError, match=f"--as {form} needs fields named by letters.* not 'a b': rename"):
        export(odd, form)
    assert read_python(export(odd, "python"), odd, {"a b": "1"}, None) == odd.render({"a b": "1"})  # type: ignore[arg-type]


def test_python_has_the_label_bias() -> None:
    bias = Predictor(
        prompt=Prompt("Sort."),
        labels=("no", "yes"),
        bias=(0.5, -0.5),
        layout=CHAT,
        max_tokens=4,
        model="f",
        fitted=10,
        validation=0.5,
    )
    portable = PortablePrompt(prompt=bias.prompt, layout=CHAT, predictor=bias)
    names: dict[str, Any] = {}
    exec(compile(export(portable, "python"), "prompt.py", "exec"), names)  # noqa: S102  our own

    label, shares = names["predict"]({"no": -1.0, "yes": -0.2})

    assert label == "no"
    assert list(shares.values()) == pytest.approx(list(bias.predict([-1.0, -0.2]).probabilities.values()))
    assert as_context(names["messages"](INPUTS)) == portable.render(INPUTS)
    assert PortablePrompt.from_json(json.loads(export(portable, "json"))) == portable


def test_python_needs_no_package_and_keeps_lines_short() -> None:
    source = export(PROMPTS["shown"], "python")

    assert set(re.findall(r"^(?:import|from) (\w+)", source, flags=re.MULTILINE)) == {"re"}
    assert max(map(len, export(PROMPTS["shown-plainly"], "python").split("\n"))) <= 120


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run."""
    found = a_result(prompt=Prompt("Answer {text}!"), layout=Layout(("text",), "{text}"))
    found.save(tmp_path / "run" / "result.json")
    return tmp_path


def test_the_command_writes_to_the_output_what_export_returns(run: Path) -> None:
    done = promptopt(run, "export", "run", "--as", "text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Answer {text}!\n", "")

    done = promptopt(run, "export", "run", "--as", "json", "-o", "new/prompt.json")
    assert (done.returncode, done.stdout.strip()) == (0, "new/prompt.json")
    assert PortablePrompt.load(run / "new" / "prompt.json").prompt == Prompt("Answer {text}!")

    again = promptopt(run, "export", "new/prompt.json", "--as", "messages")
    assert json.loads(again.stdout) == [{"role": "user", "content": "Answer {text}!"}]


def test_the_command_exports_other_candidates(run: Path) -> None:
    assert promptopt(run, "export", "run", "--as", "text", "--candidate", "seed").stdout == "Answer {text}.\n"
    assert promptopt(run, "export", "run", "--as", "text", "--candidate", "0").stdout == "Answer {text}.\n"


def test_the_command_writes_batches(run: Path) -> None:
    (run / "rows.csv").write_text("text,more\nfive,x\n", encoding="utf-8")
    done = promptopt(run, "export", "run", "--as", "openai-batch", "--data", "rows.csv", "--model", "m")

    body = json.loads(done.stdout)["body"]
    assert (body["model"], body["messages"][0]["content"]) == ("m", "Answer five!")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--as", "jsn"], "there is no form 'jsn', did you mean 'json'"),
        (["--as", "openai-batch"], "give --data FILE"),
        (["--as", "text", "--data", "rows.csv"], "--data belongs to --as openai-batch"),
        (["--as", "text", "--candidate", "9"], "there is no candidate '9': give chosen, seed, or a number from 0 to 2"),
        (["--as", "text", "--prompt", "answer"], "one prompt, and none named 'answer'"),
    ],
)
def test_the_command_says_what_is_wrong(run: Path, words: list[str], message: str) -> None:
    done = promptopt(run, "export", "run", *words)

    assert done.returncode == 2
    assert message in done.stderr


def test_prompts_of_a_program_are_exported_by_name(tmp_path: Path) -> None:
    prompts = Prompts({"query": Prompt("Search for {question}"), "a/b": Prompt("Be short.", Demonstrations(SHOWN[2:]))})
    found = a_result(prompt=prompts, seed_prompt=prompts, layout=Layout(("question",), "{question}"))
    found.save(tmp_path / "run" / "result.json")

    both = promptopt(tmp_path, "export", "run", "--as", "messages", "-o", "out")
    one = promptopt(tmp_path, "export", "run", "--as", "messages", "--prompt", "a/b")
    none = promptopt(tmp_path, "export", "run", "--as", "messages")

    assert both.stdout.split() == ["out/query.json", "out/a-b.json"]
    assert (tmp_path / "out" / "a-b.json").read_text(encoding="utf-8") == one.stdout
    assert json.loads(one.stdout)[-1] == {"role": "user", "content": "question: {question}\nhint: {hint}"}
    assert "2 prompts (query, a/b): give --output FOLDER for a file each, or --prompt NAME for one" in none.stderr


def test_a_note_names_the_prompt_with_the_label_bias(tmp_path: Path) -> None:
    predictor = Predictor(
        prompt=Prompt("Answer {text}."),
        labels=("no", "yes"),
        bias=(0.5, -0.5),
        layout=Layout(("text",), "{text}"),
        max_tokens=4,
        model="f",
        fitted=10,
        validation=0.5,
    )
    a_result(prompt=Prompt("Answer {text}!"), predictor=predictor).save(tmp_path / "run" / "result.json")

    done = promptopt(tmp_path, "export", "run", "--as", "python")
    other = promptopt(tmp_path, "export", "run", "--as", "python", "--candidate", "predictor")

    assert "label bias belongs to the seed prompt: export it with --candidate predictor" in done.stderr
    assert "BIAS" not in done.stdout
    assert "BIAS" in other.stdout
