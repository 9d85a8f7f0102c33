"""The arena: its gate, its test, its tasks and its tables, by a loopback server."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.loopback import MODEL, Loopback

from promptopt import Demonstrations, Example, FakeLabelModel, HillClimb, Memo, Prompt, TransientModelError
from promptopt.rewards import Label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.search.run import Run

LABELS = ("up", "down")


@pytest.fixture(scope="module")
def arena() -> Iterator[Any]:
    """Return the arena's modules by attribute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        pytest.importorskip("benchmarks.arena", reason="benchmarks come with a checkout only")
        for name in (
            "gate",
            "examination",
            "tasks",
            "cells",
            "contestants",
            "tables",
            "post",
            "label_choice",
            "__main__",
        ):
            import_module(f"benchmarks.arena.{name}")
        yield sys.modules["benchmarks.arena"]


def splits_of(arena: Any) -> Any:
    source = arena.tasks.Source(lambda _: [], "Up or down?", "Things go up or down.", LABELS)
    examples = tuple(Example({"input": f"thing {i}"}, LABELS[i % 2], str(i)) for i in range(12))
    return arena.tasks.Splits("things", source, examples[:4], examples[4:8], examples[8:])


def gate_of(arena: Any, server: Loopback, budget: int) -> Any:
    splits = splits_of(arena)
    return arena.gate.Gate(
        models=dict.fromkeys(("task", "writer"), (f"{server.url}/v1", MODEL)),
        examples={example.id: example for example in (*splits.train, *splits.validation)},
        metric=Label(LABELS),
        max_tokens={"task": 8, "writer": 32},
        budget=budget,
    )


def chat(model: str = "task") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "thing 1"}], "max_tokens": 10_000}


def test_the_gate_counts_tokens_by_role_and_refuses_what_comes_after_the_budget(arena: Any) -> None:
    with Loopback() as server, arena.gate.served(gate := gate_of(arena, server, 1)) as url:
        first, second = (arena.post.post(f"{url}/v1/chat/completions", chat("writer")) for _ in range(2))
        unknown = arena.post.post(f"{url}/v1/chat/completions", chat("else"))

    usage = first.json()["usage"]
    assert gate.usage() == {
        "writer": {"calls": 1, "input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
    }
    assert (second.status, second.json()["error"]["code"], gate.refused) == (429, "insufficient_quota", 1)
    assert unknown.status == 404
    assert server.requests[-1].body["max_tokens"] == 32


def test_requests_in_flight_count_before_they_are_answered(arena: Any) -> None:
    with Loopback(latency=0.2) as server, arena.gate.served(gate := gate_of(arena, server, 100)) as url:
        first = arena.post.post(f"{url}/v1/chat/completions", chat())
        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda _: arena.post.post(f"{url}/v1/chat/completions", chat()), range(64)))

    assert first.ok
    assert any(answer.ok for answer in answers)
    assert gate.tokens <= 100 + gate.tokens / gate.spent["task"].calls


def test_after_the_budget_rewards_and_the_best_prompt_are_still_taken(arena: Any) -> None:
    prompt = {"messages": [{"role": "user", "content": "{input}"}]}
    with Loopback() as server, arena.gate.served(gate := gate_of(arena, server, 0)) as url:
        reward = arena.post.post(f"{url}/reward", {"id": "1", "reply": "It goes down."}).json()
        for validation in (None, 0.5, None):
            arena.post.post(f"{url}/best", {"prompt": prompt, "validation": validation})

    assert reward == {"reward": 1.0, "target": "down"}
    assert [(best.tokens, best.prompt, best.validation) for best in gate.best] == [(0, prompt, 0.5)]


def test_one_of_our_strategies_stays_within_the_gate_and_its_choice_is_tested(
    arena: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    splits = splits_of(arena)
    with Loopback() as server, arena.gate.served(gate := gate_of(arena, server, 3_000)) as url:
        bout = arena.contestants.Bout(splits, gate, url, 0, tmp_path / "run", tmp_path)
        arena.contestants.ours(bout, strategy=HillClimb(restarts=1))
        rewards = arena.examination.examine(gate.best[-1].prompt, splits, splits.test, (f"{server.url}/v1", MODEL))

    assert gate.refused == 0  # our own budget ends the search first
    assert 0 < gate.tokens <= 3_000
    assert len(rewards) == len(splits.test)


class Stopped(HillClimb):
    """A search during which somebody stops the run."""

    def search(self, run: Run) -> None:
        signal.raise_signal(signal.SIGTERM)
        super().search(run)


def test_a_run_that_was_stopped_makes_no_cell(arena: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with Loopback() as server, arena.gate.served(gate := gate_of(arena, server, 3_000)) as url:
        bout = arena.contestants.Bout(splits_of(arena), gate, url, 0, tmp_path / "run", tmp_path)
        with pytest.raises(KeyboardInterrupt):
            arena.contestants.ours(bout, strategy=Stopped(restarts=1))


class Unanswered(HillClimb):
    """A search during which the server stops answering."""

    def search(self, run: Run) -> None:
        super().search(run)
        raise TransientModelError("the server does not answer", role="task")


def test_a_run_that_ends_before_its_budget_makes_no_cell(
    arena: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with Loopback() as server, arena.gate.served(gate := gate_of(arena, server, 30_000)) as url:
        bout = arena.contestants.Bout(splits_of(arena), gate, url, 0, tmp_path / "run", tmp_path)
        with pytest.raises(RuntimeError, match="while there was budget left: the server does not answer"):
            arena.contestants.ours(bout, strategy=Unanswered(restarts=1))


def test_a_run_in_one_process_that_was_stopped_makes_no_cell(
    arena: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(arena.contestants.OURS, "stopped", Stopped(restarts=1))
    place = arena.cells.Place("things", "smollm2", "smollm2", "stopped", 0, 100_000)
    model = FakeLabelModel(lambda _, labels: [0.0 for _ in labels], "equal")
    with Memo(tmp_path) as memo, pytest.raises(KeyboardInterrupt):
        arena.label_choice.run(arena.label_choice.Bout(place, splits_of(arena), model, model, memo), "float32")


def test_prompts_are_sent_as_posted_and_answers_are_read_between_the_marks(arena: Any) -> None:
    splits, examination = splits_of(arena), arena.examination
    posted = {
        "messages": [{"role": "system", "content": "{input}?"}, {"role": "user", "content": "It: {input}"}],
        "after": "[[ answer ]]",
        "before": "[[",
    }
    nearest = {"prompt": Prompt("Up or down?", Demonstrations(splits.train, nearest=1)).to_json()}

    assert [turn["content"] for turn in examination.messages(posted, splits, splits.test[0])] == [
        "{input}?",
        "It: thing 8",
    ]
    assert len(examination.messages(nearest, splits, splits.test[0])) == 4
    assert examination.answer(posted, "well [[ answer ]]\nup\n[[ done ]]").strip() == "up"
    assert examination.answer(posted, "no marks") == "no marks"


def test_demonstrations_are_shuffled_in_turn_from_each_label(arena: Any) -> None:
    shown = arena.contestants.shuffled(splits_of(arena), 3)

    assert [example.target for example in shown] == ["up", "down", "up", "down"]


def cell_of(arena: Any, method: str, rewards: str, seed: int = 0, **others: Any) -> Any:
    cells = arena.cells
    place = cells.Place("things", "small", "large", method, seed, 1_000)
    values = {
        "rewards": tuple(map(float, rewards)),
        "chosen": {"messages": [{"role": "user", "content": "ä {input}"}]},
        "used": {"task": {"calls": 2, "input": 300, "output": 100}},
        "curve": (cells.Point(0, 0.25), cells.Point(500, 0.75)),
        "seconds": 1.5,
        "versions": {"promptopt": "1"},
    }
    return cells.Cell(place=place, **(values | others))


def test_a_cell_is_the_same_after_it_was_kept(arena: Any, tmp_path: Path) -> None:
    cell, path = cell_of(arena, "seed", "1001"), tmp_path / "cells.jsonl"
    arena.cells.keep(cell, path)

    assert arena.cells.read_cells(path) == {cell.place: cell}
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1


def test_kept_cells_are_not_run_again(arena: Any, tmp_path: Path) -> None:
    cell, path = cell_of(arena, "seed", "1001"), tmp_path / "cells.jsonl"
    arena.cells.keep(cell, path)
    place = cell.place
    given = Namespace(
        tasks=[place.task], methods=[place.method], seeds=[place.seed], model=place.model, writer=place.writer,
        budget=place.budget, cells=path,
    )  # fmt: skip

    arena.__main__.run_missing(given)  # it has neither models nor data


def test_a_cell_that_is_run_again_starts_anew_and_pays_again(
    arena: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(arena.cells, "load", lambda *_: splits_of(arena))
    place = arena.cells.Place("things", "small", "large", "random", 0, 3_000)
    with Loopback() as server:
        models = dict.fromkeys(("task", "writer"), (f"{server.url}/v1", MODEL))
        setting = arena.cells.Setting(tmp_path, models, tmp_path / "out", tmp_path, {})
        first, again = (arena.cells.run(place, setting) for _ in range(2))

    assert first.used == again.used
    assert first.tokens > 0


def test_differences_pair_the_cells_that_both_methods_have(arena: Any) -> None:
    tables = arena.tables
    cells = [
        *(cell_of(arena, "seed", rewards, seed) for seed, rewards in enumerate(["1000", "0100", "1111"])),
        *(cell_of(arena, "gepa", rewards, seed) for seed, rewards in enumerate(["1100", "1110"])),
    ]
    methods = tables.by_method(cells)
    gain = tables.difference(methods["gepa"], methods["seed"])

    assert gain.cells == 2
    assert gain.interval().estimate == pytest.approx((0.25 + 0.5) / 2)
    assert gain.interval().low < gain.interval().estimate < gain.interval().high


def test_the_area_counts_the_seed_prompt_before_the_first_point(arena: Any) -> None:
    cell = cell_of(arena, "gepa", "1111", curve=(arena.cells.Point(200, 0.5), arena.cells.Point(600, 1.0)))

    assert arena.tables.area(cell, 0.25) == pytest.approx(0.2 * 0.25 + 0.4 * 0.5 + 0.4 * 1.0)
    assert arena.tables.tokens_to(cell, 0.5) == 200
    assert arena.tables.tokens_to(cell, 1.1) is None
    fallen = replace(cell, curve=(*cell.curve, arena.cells.Point(900, 0.75)))
    assert arena.tables.tokens_to(fallen, 1.0) is None


def test_tables_show_a_peer_ahead_in_bold(arena: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arena.tables.print_tables(
        [cell_of(arena, "seed", "1000"), cell_of(arena, "random", "1100"), cell_of(arena, "gepa", "1110")]
    )

    printed = capsys.readouterr().out
    assert "| gepa | **.750** |" in printed
    assert "| random | .500 |" in printed
    assert "+0.250" in printed


@pytest.mark.parametrize("method", ["seed", "random demonstrations", "joint, demonstrations alone"])
def test_in_one_process_the_answer_is_chosen_among_the_labels(arena: Any, method: str, tmp_path: Path) -> None:
    def logprobs(context: Any, labels: Any) -> list[float]:
        number = int(context[-1].content.split()[-1])  # right on one label only, unless examples are shown
        right = LABELS[number % 2] if len(context) > 2 else LABELS[0]
        return [0.0 if label == right else -1.0 for label in labels]

    place = arena.cells.Place("things", "smollm2", "smollm2", method, 0, 100_000)
    model = FakeLabelModel(logprobs, "labels")
    with Memo(tmp_path) as memo:
        bout = arena.label_choice.Bout(place, splits_of(arena), model, model, memo)
        cell, with_bias = arena.label_choice.run(bout, "float32")

    assert cell.reward == with_bias.reward == (0.5 if method == "seed" else 1.0)
    assert cell.used.keys() == ({"task"} if method != "seed" else set())
    assert arena.cells.Cell.read(cell.line()) == cell
    assert with_bias.place.method == f"{method}, label bias"
    assert "bias" not in with_bias.chosen["prompt"]


@pytest.mark.parametrize("method", ["seed", "joint, demonstrations alone"])
def test_in_one_process_a_label_bias_corrects_a_model_that_prefers_one_label(
    arena: Any, method: str, tmp_path: Path
) -> None:
    def logprobs(context: Any, labels: Any) -> list[float]:
        number = int(context[-1].content.split()[-1])
        return [0.5 * (label == LABELS[number % 2]) + 0.6 * (label == LABELS[0]) for label in labels]

    place = arena.cells.Place("things", "smollm2", "smollm2", method, 0, 100_000)
    model = FakeLabelModel(logprobs, "labels")
    with Memo(tmp_path) as memo:
        more = tuple(Example({"input": f"thing {i}"}, LABELS[i % 2], str(i)) for i in range(12, 36))
        splits = replace(splits_of(arena), validation=more)
        bout = arena.label_choice.Bout(place, splits, model, model, memo)
        cell, with_bias = arena.label_choice.run(bout, "float32")

    assert cell.reward == 0.5
    assert with_bias.reward == 1.0
    assert len(with_bias.chosen["bias"]) == 2
    assert method in arena.tables.by_method([cell, with_bias])


@pytest.mark.parametrize("name", ["sst2", "snarks", "banking10", "larger_animal", "mawps", "gsm8k_defective"])
def test_splits_share_no_input_and_depend_on_the_seed(arena: Any, shared_data: Path, name: str) -> None:
    first, again, other = (arena.tasks.load(name, shared_data, seed) for seed in (0, 0, 1))
    inputs = [example.inputs["input"] for split in (first.train, first.validation, first.test) for example in split]

    assert first == again
    assert first.train != other.train
    assert len(set(inputs)) == len(inputs) >= 50 + 50 + 70
    assert all(first.metric(e, arena.gate.Reply(text=e.target)) in (1.0, (1.0, "")) for e in first.test)
