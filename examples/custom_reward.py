"""A reward of one's own: any function of (example, response). Runs offline, on a fake model.

The task: answer politely and briefly. The reward says why, and its words reach a prompt writer.
"""

from promptopt import Example, FakeModel, Prompt, Request, Response, Task, optimize


def polite_and_brief(example: Example, response: Response) -> tuple[float, str]:
    """1 for a reply that thanks the customer by name in at most twelve words; half for one of the two."""
    polite = f"thank you, {example.inputs['name'].lower()}" in response.text.lower()
    brief = len(response.text.split()) <= 12
    return (polite + brief) / 2, f"{'polite' if polite else 'no thanks'}, {'brief' if brief else 'too long'}"


def clerk(request: Request) -> str:
    """Play a model: does what the prompt says, and rambles unless told to be brief."""
    told, asked = (str(turn[1]) for turn in request.context)
    thanks = f"Thank you, {asked}. " if "thank" in told.lower() else ""
    return thanks + (
        "We are on it." if "brief" in told.lower() else "Our team will look into every detail of this. " * 3
    )


def writer(request: Request) -> str:
    """Play a prompt writer: proposes one of four rewordings."""
    ideas = ["Answer.", "Be brief.", "Thank the customer by name.", "Thank the customer by name and be brief."]
    return f"<prompt>{ideas[request.replicate % 4]}</prompt>"


def items(names: str) -> tuple[Example, ...]:
    """Make one example for each name."""
    return tuple(Example({"name": name}, None, name) for name in names.split())


task = Task(
    train=items("Ada Ben Cleo Dov"),
    validation=items("Eli Fay Gus Hal"),
    test=items("Ida Jon Kim Lea"),
    seed_prompt=Prompt("Answer the customer."),
    reward=polite_and_brief,
)

if __name__ == "__main__":
    print(optimize(task, FakeModel(clerk), "random", writer=FakeModel(writer, "writer")))
