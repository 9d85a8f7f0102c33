"""Writes a prompt as Python source that needs no other package, and as a DSPy module.

The source renders as `Layout.render` does; tests compare the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt._version import __version__
from promptopt.errors import InputError
from promptopt.results.export.outline import check_texts

if TYPE_CHECKING:
    from promptopt.results.portable import PortablePrompt

_WIDTH = 100  # of a line of source, as far as text has line ends

_HEAD = '''\
"""The prompt {name}, exported by promptopt {version}. Needs {needs}.

{use}
"""

{imports}

MODEL = {model}  # the model that the prompt was found for
SETTINGS = {settings}  # sent with it

FIELDS = {fields}
INSTRUCTION = {instruction}
QUERY = {query}
DEMONSTRATIONS = {demonstrations}
'''
_FILL = """

_SLOTS = re.compile("|".join(re.escape("{" + name + "}") for name in FIELDS))


def _fill(text, inputs):
    return _SLOTS.sub(lambda match: inputs[match[0][1:-1]], text)
"""
_ALL = """

def _shown(inputs):
    return DEMONSTRATIONS
"""
_NEAREST = '''

def _shown(inputs):
    """Return the demonstrations most similar to the input by the cosine of tf-idf vectors, the most similar last."""
    texts = [" ".join(shown.values()) for shown, _ in DEMONSTRATIONS]
    query = " ".join(inputs[name] for name in FIELDS)
    counts = [Counter(re.findall(r"\\w+", text.lower())) for text in (query, *texts)]
    frequency = Counter(word for count in counts for word in count)
    weights = [
        {word: n * (math.log((1 + len(counts)) / (1 + frequency[word])) + 1) for word, n in count.items()}
        for count in counts
    ]
    similarity = [_cosine(weights[0], other) for other in weights[1:]]
    order = sorted(range(len(texts)), key=lambda i: (-similarity[i], i))[:NEAREST]
    return [DEMONSTRATIONS[i] for i in reversed(order)]


def _cosine(a, b):
    dot = math.fsum(weight * b[word] for word, weight in a.items() if word in b)
    norm = math.sqrt(math.fsum(w * w for w in a.values()) * math.fsum(w * w for w in b.values()))
    return dot / norm if norm else 0.0
'''
_MESSAGES = '''

def messages(inputs):
    """Return the messages for one input, {field: text}."""
    turns = [{"role": "system", "content": INSTRUCTION}] if INSTRUCTION else []
    turns += TURNS
    for shown, answer in _shown(inputs):
        turns.append({"role": "user", "content": _fill(QUERY, shown)})
        turns.append({"role": "assistant", "content": answer})
    return [*turns, {"role": "user", "content": _fill(QUERY, inputs)}]
'''
_TEXT = '''

def text(inputs):
    """Return the text to continue for one input, {field: text}."""
    shown = [_fill(QUERY, shown) + " " + answer for shown, answer in _shown(inputs)]
    return "\\n\\n".join(part for part in (INSTRUCTION, *shown, _fill(QUERY, inputs)) if part)
'''
_DSPY = '''

class Answer(dspy.Module):
    """Sends the prompt as it is, past DSPy's adapters: `Answer()(field=text, ...)` returns a Prediction with `output`."""

    def forward(self, **inputs):
        output = dspy.settings.lm(messages=messages(inputs), **SETTINGS)[0]
        return dspy.Prediction(output=output if isinstance(output, str) else output["text"])
'''


def python_file(portable: PortablePrompt) -> str:
    """Return Python source with `messages(inputs)`, or for completions `text(inputs)`; with a label bias, `predict(logprobs)`.

    Raises:
        InputError: the prompt is a caption.
    """
    use = f"`{_function(portable)}(inputs)` returns what to send to the model for one input, {{field: text}}."
    if portable.predictor is None:
        return _source(portable, use, "python")
    use += "\n`predict(logprobs)` adds the label bias that was fitted for this prompt and this model."
    bias = portable.predictor.source().removeprefix("import math\n")
    return f"{_source(portable, use, 'python', 'math')}\n{bias}"


def dspy_file(portable: PortablePrompt) -> str:
    """Return Python source with a `dspy.Module` that sends the prompt as it is.

    Raises:
        InputError: the task has the format "completion", or the prompt is a caption.
    """
    if portable.layout.format == "completion":
        raise InputError(
            "--as dspy cannot hold the prompt: the task has the format 'completion', and DSPy adds words to a text that is "
            "to be continued: use --as python or json"
        )
    use = "Configure `dspy.LM(MODEL)` and call `Answer()(field=text, ...)`; the output is that of the model, unparsed."
    return _source(portable, use, "dspy", needs="DSPy") + _DSPY


def _function(portable: PortablePrompt) -> str:
    return "text" if portable.layout.format == "completion" else "messages"


def _source(portable: PortablePrompt, use: str, form: str, *modules: str, needs: str = "") -> str:
    check_texts(portable, form)
    layout, prompt = portable.layout, portable.prompt
    items = prompt.demonstrations.items if prompt.demonstrations else ()
    nearest = prompt.demonstrations.nearest if prompt.demonstrations else None
    instruction, query = layout.parts(prompt)
    imports = [f"import {module}" for module in sorted({"re", *modules, *(["math"] if nearest else [])})]
    imports += ["from collections import Counter"] if nearest else []
    imports += ["", "import dspy"] if needs else []
    settings = {name: value for name, value in portable.request.items() if name != "format"}
    out = _HEAD.format(
        name=portable.name.replace("\\", "/").replace('"', "'"),
        version=__version__,
        needs=needs or "only Python's standard library",
        use=use,
        imports="\n".join(imports),
        model=repr(portable.model),
        settings=_literal(settings),
        fields=_literal(layout.fields),
        instruction=_literal(instruction),
        query=_literal(query),
        demonstrations=_literal([(dict(item.inputs), str(item.target)) for item in items]),
    )
    out += f"NEAREST = {nearest}  # number of demonstrations shown\n" if nearest else ""
    out += (
        ""
        if layout.format == "completion"
        else f"TURNS = {_literal([turn._asdict() for turn in (*layout.turns, *prompt.turns)])}\n"
    )
    chat = (
        _MESSAGES
        if layout.prompt_role == "auto"
        else _MESSAGES.replace('": INSTRUCTION}', '": _fill(INSTRUCTION, inputs)}')
    )
    return out + _FILL + (_NEAREST if nearest else _ALL) + (_TEXT if layout.format == "completion" else chat)


def _literal(value: Any, indent: int = 0) -> str:
    """Return source of JSON values and tuples of them: texts with line ends line by line, what is long an item a line."""
    inner = " " * (indent + 4)
    if isinstance(value, str):
        lines = value.splitlines(keepends=True)
        if len(lines) <= 1 and len(repr(value)) + indent <= _WIDTH:
            return repr(value)
        return "(\n" + "".join(f"{inner}{line!r}\n" for line in lines) + " " * indent + ")" if lines else repr(value)
    if not isinstance(value, list | tuple | dict) or len(repr(value)) + indent <= _WIDTH:
        return repr(value)
    opening, closing = ("(", ")") if isinstance(value, tuple) else ("[", "]")
    if isinstance(value, dict):
        opening, closing = "{", "}"
        parts = [f"{key!r}: {_literal(item, indent + 4)}" for key, item in value.items()]
    else:
        parts = [_literal(item, indent + 4) for item in value]
    return opening + "\n" + "".join(f"{inner}{part},\n" for part in parts) + " " * indent + closing
