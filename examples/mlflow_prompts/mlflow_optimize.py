"""`mlflow.genai.optimize_prompts` with promptopt as its optimizer: `python examples/mlflow_prompts/mlflow_optimize.py`.

The program of `mlflow_desk.py` as MLflow calls it. Scripted models answer and write: that shows that the parts work together, no more.
"""

import argparse
from pathlib import Path

import mlflow
import mlflow.genai
from mlflow.genai.scorers import scorer
from mlflow_desk import FIRST, REGISTERED, reply, scripted, tickets
from mlflow_optimizer import Promptopt

from promptopt import FakeModel


def predict(text: str) -> str:
    """Sum up a message, and say which team it is for, with the registered prompts."""
    summary = reply(str(mlflow.genai.load_prompt(f"prompts:/{REGISTERED['summary']}/1").format(text=text)))
    return reply(str(mlflow.genai.load_prompt(f"prompts:/{REGISTERED['team']}/1").format(summary=summary)))


@scorer
def right(outputs: str, expectations: dict[str, str]) -> bool:
    """Whether the team is the right one, and nothing else is said."""
    return outputs == expectations["expected_response"]


def main() -> None:
    """Register the first versions, and optimise them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--registry", default="sqlite:///runs/mlflow_optimize/mlflow.db", help="MLflow's tracking URI")
    options.add_argument("--run-dir", type=Path, default=Path("runs/mlflow_optimize"))
    chosen = options.parse_args()
    chosen.run_dir.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(chosen.registry)
    for name, registered in REGISTERED.items():
        if not mlflow.genai.load_prompt(registered, allow_missing=True):
            mlflow.genai.register_prompt(name=registered, template=FIRST[name])
    optimizer = Promptopt(
        FakeModel(scripted, "scripted"),
        version="1",
        settings={"budget": "500 calls", "run_dir": chosen.run_dir, "overwrite": True},
    )
    found = mlflow.genai.optimize_prompts(
        predict_fn=predict,
        train_data=[{"inputs": {"text": one.inputs["text"]}, "outputs": one.target} for one in tickets()[:60]],
        prompt_uris=[f"prompts:/{registered}/1" for registered in REGISTERED.values()],
        optimizer=optimizer,
        scorers=[right],
    )
    print(optimizer.result.headline if optimizer.result else "")
    print(f"{found.optimizer_name}: {found.initial_eval_score:.3f} -> {found.final_eval_score:.3f}")
    for prompt in found.optimized_prompts:
        print(f"{prompt.name} {prompt.version}: {prompt.template!r}")


if __name__ == "__main__":
    main()
