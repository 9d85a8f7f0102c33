"""Label sentences that nobody has labelled: python -m examples.topics.topics MODEL [FOLDER].

The search sees texts.csv, which has no labels. check.csv has some, for the one comparison at the end.
"""

import sys
from pathlib import Path

from promptopt import Prompt, Task, optimize, pseudo_labels, write_fine_tuning
from promptopt.data.rows import read_rows, to_examples

HERE = Path(__file__).parent
TOPICS = ("cooking", "sport", "travel")

task = Task(
    train=to_examples(read_rows(HERE / "texts.csv"), inputs=["text"], label=None),
    test=to_examples(read_rows(HERE / "check.csv"), inputs=["text"], label="topic", split="test"),
    seed_prompt=Prompt("Sentence: {text}\nTopic:"),
    labels=TOPICS,
    template="Sentence: {text}\nTopic:",
    format="completion",
    name="topics",
)

if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs/topics")
    result = optimize(task, model, "unsupervised", budget="4000 calls", run_dir=folder)
    print(result)
    labels = pseudo_labels(result)
    write_fine_tuning(folder / "labels.jsonl", task, labels)
    print(f"\n{len(labels)} labels in {folder / 'labels.jsonl'}, such as:")
    for label in labels[:3]:
        print(label)
