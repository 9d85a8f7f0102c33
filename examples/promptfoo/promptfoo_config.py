"""A promptfoo configuration as a task: prompts, variables and assertions. Copy it into your project; it needs PyYAML.

python promptfoo_config.py promptfooconfig.yaml --model openai:gpt-4.1-mini --budget '2 dollars'
"""

import argparse
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from promptopt import Example, InputError, Prompt, Response, Task, optimize
from promptopt.data.rows import split_examples

Check = Callable[[str, Any], bool]

_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def _same(text: str, value: Any) -> bool:
    """Compare a reply with a text, or as JSON with a list or an object, as promptfoo does."""
    if not isinstance(value, dict | list):
        return text == str(value)
    try:
        parsed = json.loads(text)
    except ValueError:
        return False
    return bool(parsed == value)


def _several(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [one.strip() for one in str(value).split(",")]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


CHECKS: dict[str, Check] = {
    "equals": _same,
    "contains": lambda text, value: str(value) in text,
    "icontains": lambda text, value: str(value).lower() in text.lower(),
    "contains-any": lambda text, value: any(one in text for one in _several(value)),
    "contains-all": lambda text, value: all(one in text for one in _several(value)),
    "icontains-any": lambda text, value: any(one.lower() in text.lower() for one in _several(value)),
    "icontains-all": lambda text, value: all(one.lower() in text.lower() for one in _several(value)),
    "starts-with": lambda text, value: text.startswith(str(value)),
    "regex": lambda text, value: re.search(str(value), text) is not None,
    "is-json": lambda text, _: _is_json(text),
}
"""What the assertions of these types ask of a reply; `not-` before a type asks the opposite."""


def load_promptfoo(path: Path, *, seed: int = 0, shares: Sequence[float] = (0.4, 0.3, 0.3)) -> Task:
    """Return the task of a configuration. Its first prompt is the seed prompt; each test is an example.

    The target of an example is the value of its `equals` assertion, if that is its only one. The reward is promptfoo's score: the
    mean of the assertions that hold, by their weights.

    Raises:
        InputError: something in the file has no counterpart; the message names it.
    """
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not config.get("prompts") or not config.get("tests"):
        raise InputError(f"{path} needs prompts and tests")
    default = config.get("defaultTest") or {}
    tests = [_merged(default, test) for test in _tests(config["tests"], path.parent)]
    asserts = {str(number): test["assert"] for number, test in enumerate(tests)}
    for number, checks in asserts.items():
        _check_types(checks, f"{path}: test {number}")
    examples = [
        Example({name: str(value) for name, value in test["vars"].items()}, _target(test["assert"]), str(number))
        for number, test in enumerate(tests)
    ]
    splits = split_examples(examples, seed, shares)

    def score(example: Example, response: Response) -> tuple[float, str]:
        return scored(response.text, asserts[example.id])

    return Task(
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        seed_prompt=Prompt(_prompt(config["prompts"], path)),
        reward=score,
        description=str(config.get("description") or ""),
        name=path.parent.resolve().name,
    )


def scored(text: str, checks: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """Return promptfoo's score of a reply, and which assertions do not hold."""
    weights = [float(check.get("weight", 1)) for check in checks]
    held = [_holds(text, check) for check in checks]
    failed = [
        f"{check['type']} {check.get('value', '')!r}" for check, holds in zip(checks, held, strict=True) if not holds
    ]
    score = sum(weight for weight, holds in zip(weights, held, strict=True) if holds) / sum(weights)
    return score, f"does not hold: {'; '.join(failed)}" if failed else ""


def _holds(text: str, check: Mapping[str, Any]) -> bool:
    kind = str(check["type"])
    return CHECKS[kind.removeprefix("not-")](text, check.get("value")) != kind.startswith("not-")


def _prompt(prompts: Any, path: Path) -> str:
    """Return the text of the first prompt, with slots as promptopt writes them."""
    first = prompts[0] if isinstance(prompts, list) else prompts
    text = str(first.get("raw", first.get("id", "")) if isinstance(first, dict) else first)
    if text.startswith("file://"):
        text = (path.parent / text.removeprefix("file://")).read_text(encoding="utf-8").strip()
    if text.lstrip().startswith("[") or "{%" in text or "|" in "".join(re.findall(r"\{\{.*?\}\}", text)):
        raise InputError(
            f"{path}: the first prompt is a chat or has template code: write it as a text with {{{{slots}}}}"
        )
    return _SLOT.sub(r"{\1}", text)


def _tests(tests: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the tests of a list, or of a file."""
    if isinstance(tests, list):
        return [test for one in tests for test in ([one] if isinstance(one, dict) else _tests(one, folder))]
    file = folder / str(tests).removeprefix("file://")
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as rows:
            return [_from_row(row) for row in csv.DictReader(rows)]
    return _tests(yaml.safe_load(file.read_text(encoding="utf-8")), folder)


def _from_row(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the test of a row, whose columns `__expected`, `__expected1` and so on hold assertions."""
    expected = [value for name, value in row.items() if re.fullmatch(r"__expected\d*", name) and value]
    return {
        "vars": {name: value for name, value in row.items() if not name.startswith("__")},
        "assert": [_from_text(value) for value in expected],
    }


def _from_text(expected: str) -> dict[str, Any]:
    kind, colon, value = expected.partition(":")
    known = kind.strip().removeprefix("not-") in CHECKS
    if known and (colon or kind.endswith("is-json")):
        return {"type": kind.strip(), "value": value.strip()}
    return {"type": "equals", "value": expected}


def _merged(default: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vars": {**(default.get("vars") or {}), **(test.get("vars") or {})},
        "assert": [*(default.get("assert") or []), *(test.get("assert") or [])],
    }


def _check_types(checks: Sequence[Mapping[str, Any]], where: str) -> None:
    if not checks:
        raise InputError(f"{where} has no assertion: without one no reply can be scored")
    for check in checks:
        if str(check["type"]).removeprefix("not-") not in CHECKS:
            raise InputError(
                f"{where} has an assertion of type {check['type']!r}: write a reward of your own for it; known: {', '.join(CHECKS)}"
            )


def _target(checks: Sequence[Mapping[str, Any]]) -> str | None:
    return str(checks[0]["value"]) if [check["type"] for check in checks] == ["equals"] else None


def main() -> None:
    """Optimise the first prompt of a configuration."""
    options = argparse.ArgumentParser(description="Optimise the first prompt of a promptfoo configuration.")
    options.add_argument("config", type=Path)
    options.add_argument("--model", required=True)
    options.add_argument("--budget")
    options.add_argument("--run-dir", type=Path, default=Path("runs/promptfoo"))
    chosen = options.parse_args()
    print(optimize(load_promptfoo(chosen.config), chosen.model, budget=chosen.budget, run_dir=chosen.run_dir))


if __name__ == "__main__":
    main()
