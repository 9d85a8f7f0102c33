"""Examples that need another library run as they stand: with it here, or in the environment of PROMPTOPT_ADAPTERS_PYTHON."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

from promptopt import Prompts, Result

if TYPE_CHECKING:
    from pathlib import Path


PATH = [ROOT, *(ROOT / "examples" / name for name in ("dspy_module", "mlflow_prompts"))]


def python_with(library: str) -> str:
    """Return an interpreter that has a library, or several, as in `a, b`; or skip the test."""
    if all(importlib.util.find_spec(name) is not None for name in library.split(", ")):
        return sys.executable
    other = os.environ.get("PROMPTOPT_ADAPTERS_PYTHON", "")
    if other and subprocess.run([other, "-c", f"import {library}"], capture_output=True, check=False).returncode == 0:
        return other
    pytest.skip(f"needs {library}, here or in the environment of PROMPTOPT_ADAPTERS_PYTHON")


def run(library: str, folder: Path, *arguments: str) -> str:
    """Return what Python prints, with promptopt and the examples on its path."""
    done = subprocess.run(
        [python_with(library), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, PATH)),
            "HOME": str(folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dspy_module_is_optimised_and_written_back(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "dspy_module" / "dspy_desk.py")
    shown = run("dspy", tmp_path, script)
    assert "0.0 % before, 100.0 % after" in shown
    assert "route: 'Which team is it for: billing, technical, delivery or account? Answer in one word.'" in shown
    assert (tmp_path / "runs" / "dspy_module" / "desk.json").exists()
    first = Result.load(tmp_path / "runs" / "dspy_module")
    assert isinstance(first.prompt, Prompts)
    assert first.used["tool"].input_tokens > 0
    assert any(record.prompt["route"].demonstrations for record in first.history if isinstance(record.prompt, Prompts))
    assert run("dspy", tmp_path, script) == shown
    again = Result.load(tmp_path / "runs" / "dspy_module")
    assert again == first
    assert not sum(spent.calls for spent in again.paid.values())


DSPY_SCRIPT = """
import json

import dspy
from dspy import lm15
from dspy_adapter import Promptopt, as_program, seed_prompts, with_prompts
from promptopt import Demonstrations, Example, FakeModel, InputError, Prompt, Prompts

module = dspy.ChainOfThought("question -> answer")
demo = dspy.Example(question="2 + 2", reasoning="count", answer="4")
module.predict.demos = [demo]
prompts = seed_prompts(module)
assert list(prompts) == ["predict"]
(item,) = prompts["predict"].demonstrations.items
assert (item.inputs, json.loads(item.target)) == ({"question": "2 + 2"}, {"reasoning": "count", "answer": "4"})
item = Example({"question": "1 + 1"}, json.dumps({"answer": "2"}), "new")
changed = with_prompts(module, Prompts({"predict": Prompt("Add up.", Demonstrations((item,)))}))
assert changed.predict.signature.instructions == "Add up."
assert [one.toDict() for one in changed.predict.demos] == [{"augmented": True, "question": "1 + 1", "answer": "2"}]
assert module.predict.signature.instructions != "Add up." and module.predict.demos == [demo]  # the student is as it was


class Engine:
    def complete(self, request):
        asked = request.messages[-1].text
        if "broken" in asked:
            raise lm15.ServerError("down")
        answered = "Add up." in str(request.system)
        fields = "[[ ## reasoning ## ]]\\nso\\n\\n[[ ## answer ## ]]\\n4\\n\\n[[ ## completed ## ]]"
        message = lm15.Message.assistant([lm15.TextPart(fields if answered else "It is 4.")])
        usage = lm15.Usage(input_tokens=5, output_tokens=2, total_tokens=7)
        return lm15.Response(id=None, model="s", message=message, finish_reason="stop", usage=usage)

    def stream(self, request):
        return lm15.response_to_events(self.complete(request))

    def close(self):
        pass


def metric(example, prediction, trace=None):
    return prediction.answer == example.answer


BETTER = "Given the fields `question`, produce the fields `answer`. Add up."
writer = FakeModel(lambda request: f"<prompt>{BETTER}</prompt>", "writer")
sums = [dspy.Example(question=f"{n} + {4 - n}", answer="4").with_inputs("question") for n in range(12)]
optimizer = Promptopt(metric, writer=writer, version="1", settings={"memo": "memo", "tracking": False})
student = dspy.ChainOfThought("question -> answer")
with dspy.context(lm=dspy.LM("s", engine=Engine(), cache=False, num_retries=0)):  # not dspy.configure: threads see it too
    compiled = optimizer.compile(student, trainset=sums)
    assert compiled.predict.signature.instructions == BETTER
    seed = optimizer.result.history[0]
    assert (seed.reward, seed.failed, seed.cells) == (0.0, 0, 8)  # no reply could be parsed: that is a reward of 0
    assert optimizer.result.used["tool"].tokens >= 7 * optimizer.result.used["tool"].calls
    broken = dspy.Example(question="broken", answer="4").with_inputs("question")
    optimizer.compile(student, trainset=[*sums[:6], broken, *sums[6:]])
    assert optimizer.result.history[0].failed == 1  # its example only
    assert optimizer.result.unfinished
    try:
        optimizer.compile(student, trainset=sums, teacher=student)
    except InputError as error:
        print(error)
"""


def test_the_dspy_adapter_maps_demonstrations_and_keeps_failures_apart(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DSPY_SCRIPT, encoding="utf-8")
    assert run("dspy", tmp_path, "script.py") == "Promptopt.compile takes no teacher\n"


MLFLOW_SCRIPT = """
import mlflow
import pytest
from dataclasses import replace
from pathlib import Path
from mlflow_registry import load_prompts, register_prompts
from promptopt import Demonstrations, Example, InputError, Prompt, Prompts, Result

mlflow.set_tracking_uri("sqlite:///runs/mlflow_prompts/mlflow.db")
result = Result.load(Path("runs") / "mlflow_prompts")
uris = {"summary": "prompts:/desk.summary@production", "team": "prompts:/desk.team@production"}
assert Prompts(load_prompts(uris)) == result.seed_prompt  # production is as it was
assert Prompts(load_prompts({name: uri.replace("production", "candidate") for name, uri in uris.items()})) == result.prompt
assert mlflow.genai.load_prompt("desk.team").commit_message == result.headline
braces = Prompt('{summary}\\nReply with {"team": "..."} or {nothing}.')
versions = register_prompts(replace(result, prompt=result.seed_prompt.replaced("team", braces)), uris, alias="next")
assert mlflow.genai.load_prompt(versions["team"]).template == '{{summary}}\\nReply with {"team": "..."} or {nothing}.'
assert versions["summary"] == "prompts:/desk.summary/1"
shown = Prompt("x", Demonstrations((Example({"text": "a"}, "b", "1"),)))
with pytest.raises(InputError, match="the prompt 'team' has demonstrations: search instructions only"):
    register_prompts(replace(result, prompt=result.seed_prompt.replaced("team", shown)), uris, alias="next")
mlflow.genai.register_prompt(name="chat", template=[{"role": "user", "content": "{{text}}"}])
with pytest.raises(InputError, match="prompts:/chat/1 is a chat: register the text"):
    load_prompts({"chat": "prompts:/chat/1"})
"""


@pytest.mark.wide  # MLflow makes its tables and loads its parts in most of a minute
def test_registered_prompts_go_in_and_new_versions_come_out(tmp_path: Path) -> None:
    shown = run("mlflow", tmp_path, str(ROOT / "examples" / "mlflow_prompts" / "mlflow_desk.py"))
    assert shown.startswith("Better than the seed prompt: 0.000 -> 1.000")
    assert "team: prompts:/desk.team/2 (@candidate) '{{summary}}\\nWhich team" in shown
    (tmp_path / "script.py").write_text(MLFLOW_SCRIPT, encoding="utf-8")
    run("mlflow", tmp_path, "script.py")


OPTIMIZER_SCRIPT = """
import mlflow
import pytest
from types import SimpleNamespace
from mlflow_optimizer import FAILED, Promptopt
from promptopt import FakeModel, InputError

mlflow.set_tracking_uri("sqlite:///mlflow.db")
records = [{"inputs": {"n": n}, "outputs": str(n)} for n in range(24)]
seen = []


def eval_fn(prompts, data):
    (record,), (text,) = data, prompts.values()
    seen.append(text)
    number = record["inputs"]["n"]
    outputs = f"{FAILED}{record}: down" if number == 7 else "right" if "well" in text else "wrong"
    return [SimpleNamespace(outputs=outputs, score=float(outputs == "right"), rationales={"judge": outputs})]


writer = FakeModel(lambda request: "<prompt>Count {n} well.</prompt>", "writer")
settings = {"memo": "memo", "tracking": False, "budget": "200 calls"}
optimizer = Promptopt(writer, version="1", settings=settings)
output = optimizer.optimize(eval_fn, records, {"count": "Count {{ n }}."}, enable_tracking=False)
assert output.optimized_prompts == {"count": "Count {{n}} well."}
assert set(seen) == {"Count {{n}}.", "Count {{n}} well."}
assert optimizer.result.failed > 0 and (output.initial_eval_score, output.final_eval_score) == (0, 1)
with pytest.raises(InputError, match="'chat' is a chat"):
    optimizer.optimize(eval_fn, records, {"chat": '[{"role": "user", "content": "x"}]'}, enable_tracking=False)
with pytest.raises(InputError, match="give train_data and scorers"):
    optimizer.optimize(None, [], {"count": "Count {{n}}."}, enable_tracking=False)
"""


def test_mlflow_optimizes_prompts_with_promptopt(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(OPTIMIZER_SCRIPT, encoding="utf-8")
    run("mlflow", tmp_path, "script.py")


@pytest.mark.wide  # four minutes, most of them MLflow's
def test_a_program_of_mlflow_is_optimised_by_its_own_call(tmp_path: Path) -> None:
    shown = run("mlflow, pandas", tmp_path, str(ROOT / "examples" / "mlflow_prompts" / "mlflow_optimize.py"))
    assert "Better than the seed prompt: 0.000 -> 1.000" in shown
    assert "desk.team 2: '{{summary}}" in shown
