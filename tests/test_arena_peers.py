"""The peers' sides of the arena. Those of libraries run where PROMPTOPT_PEERS names the folder of their environments."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.arena_gate import LABELS, FakeGate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parent.parent
ITEMS = [
    {"id": str(n), "input": f'Scene {n}: {{the}} plot\nthickens, \\n "they" say.', "target": LABELS[n % 2]}
    for n in range(80)
]
TARGETS = {item["id"]: item["target"] for item in ITEMS}


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield pytest.importorskip("benchmarks.arena.peers.methods", reason="benchmarks come with a checkout only")


@pytest.fixture(scope="module")
def side(peers: ModuleType) -> Any:
    return pytest.importorskip("benchmarks.arena.peers.side")


def case_of(method: str, gate: FakeGate) -> str:
    case = {
        "method": method,
        "task": "subj",
        "seed": 3,
        "gate": gate.url,
        "description": "Sentences about films are classified as subjective or objective.",
        "instruction": "Is the sentence subjective or objective? Answer with one word.",
        "labels": LABELS,
        "train": ITEMS[:40],
        "validation": ITEMS[40:],
        "max_tokens": 32,
        "token_budget": gate.budget,
    }
    return json.dumps(case)


def rendered(prompt: dict[str, Any], text: str) -> list[dict[str, str]]:
    """Return the conversation of a posted prompt for an input, as the arena's test has it."""
    *before, last = prompt["messages"]
    return [*before, last | {"content": last["content"].replace("{input}", text)}]


def test_a_side_reads_its_case_asks_the_gate_and_posts(side: Any) -> None:
    with FakeGate(TARGETS, 100) as server:
        case = side.read_case(case_of("gepa", server))
        gate = side.Gate(case.gate)

        reply = gate.ask("task", [{"role": "user", "content": "Scene 1"}], temperature=0)
        assert reply in LABELS
        assert gate.reward("1", "Objective.") == (1.0, "objective")
        gate.best(side.prompt([{"role": "user", "content": "{input}"}], after="A:"), 0.5)

        assert case.train[1] == ("1", ITEMS[1]["input"], "objective")
        assert server.best == [
            {
                "prompt": {"messages": [{"role": "user", "content": "{input}"}], "after": "A:", "before": None},
                "validation": 0.5,
            }
        ]


def test_replies_come_in_the_order_of_the_requests_and_one_too_long_for_the_model_has_none(side: Any) -> None:
    with FakeGate(TARGETS, 10**6) as server:
        asked = [[{"role": "user", "content": text}] for text in ("a", "too long", "b", "c")]
        gate = side.Gate(server.url)

        assert gate.ask_all("task", asked) == [*[gate.ask("task", messages) for messages in asked]]
        assert gate.ask("task", asked[1]) == ""


def test_a_spent_budget_passes_a_library_that_catches_errors_and_ends_the_run(side: Any) -> None:
    def library(gate: Any) -> None:
        while True:
            try:
                gate.ask_all("task", [[{"role": "user", "content": "x"}]] * 3)
            except Exception:  # noqa: BLE001, S112  as libraries do
                continue

    with FakeGate(TARGETS, 50) as server:
        gate = side.Gate(server.url)
        with gate.until_spent():
            library(gate)
        server.tokens = server.budget
        with gate.until_spent():
            raise RuntimeError("no reply for an evaluation")


def test_an_error_before_the_end_of_the_budget_is_an_error(side: Any) -> None:
    with (
        FakeGate(TARGETS, 50) as server,
        pytest.raises(RuntimeError, match="its own"),
        side.Gate(server.url).until_spent(),
    ):
        raise RuntimeError("its own")


def test_each_method_says_why_it_is_set_as_it_is_and_has_a_script(peers: ModuleType) -> None:
    for name, method in peers.PEERS_BY_METHOD.items():
        assert Path(str(peers.__file__)).with_name(f"{method.script}.py").is_file(), name
        assert method.package in peers.REQUIREMENTS
        assert method.settings
        assert all(setting.why and setting.source for setting in method.settings)


def ran(peers: ModuleType, method: str, budget: int) -> FakeGate:
    folder = os.environ.get("PROMPTOPT_PEERS")
    if not folder:
        pytest.skip(
            "PROMPTOPT_PEERS names no folder of the peers' environments: python -m benchmarks.arena.peers FOLDER"
        )
    if not peers.python_of(method, Path(folder)).is_file():
        pytest.skip(f"{folder} has no environment for {method}: python -m benchmarks.arena.peers {folder}")
    with FakeGate(TARGETS, budget) as gate:
        command = peers.command_of(method, Path(folder))
        done = subprocess.run(
            command, input=case_of(method, gate), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return gate


# Budgets, in words, with which each method reaches a first scored choice.
BUDGETS = {
    "gepa": 15_000,
    "gepa_anything": 15_000,
    "miprov2": 250_000,
    "bootstrap": 60_000,
    "simba": 250_000,
    "capo": 40_000,
    "opro": 12_000,
    "evoprompt": 40_000,
    "metaprompt": 8_000,
}


@pytest.mark.parametrize("method", BUDGETS)
def test_a_posted_prompt_is_to_the_byte_what_the_library_sends(peers: ModuleType, method: str) -> None:
    gate = ran(peers, method, BUDGETS[method])

    asked = {json.dumps(messages) for messages in gate.conversations("task")}
    scored = [best["prompt"] for best in gate.best if best["validation"] is not None]
    assert len(scored) > 1
    for prompt in scored:
        sent = [json.dumps(rendered(prompt, item["input"])) in asked for item in ITEMS]
        assert sum(sent) >= 30
    assert all(0 <= best["validation"] <= 1 for best in gate.best if best["validation"] is not None)


@pytest.mark.parametrize("method", ["gepa", "miprov2", "simba", "capo"])
def test_a_budget_that_ends_in_the_first_step_leaves_the_seed_prompt_and_ends_the_run(
    peers: ModuleType, method: str
) -> None:
    gate = ran(peers, method, 500)

    assert "Is the sentence subjective or objective?" in json.dumps(gate.best[-1])
    assert gate.best[-1]["validation"] is None
    assert gate.refused < 500
