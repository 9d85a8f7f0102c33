"""Search the template by which a CLIP model names what an image shows. Runs offline, in about half a minute.

A tiny CLIP is trained here on drawn shapes, so that nothing is fetched; README.md says how to use a real one.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from promptopt import FakeModel, Request, Result, optimize
from promptopt.randomness import named_generator

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "grey": (120, 120, 120)}
TRAINED = (
    "a photo of a {}",
    "a small photo of a {}",
    "a blurry photo of the {}",
    "a drawing of a {}",
    "one {} on paper",
)
NEGATED = ("not a {}", "a photo without a {}", "there is no {} on the wall")
WORDS = (
    *("a", "the", "one", "of", "on", "in", "is", "it", "this", "that", "some", "very", "small", "large", "good", "bad"),
    *("blurry", "photo", "drawing", "picture", "paper", "wall", "thing", "kind", "named", "shows", "type", "art"),
    *("please", "look", "at", "and", "or", "not", "no", "without", "other"),
)
SIDE = 32  # pixels
TASK = """
name = "shapes"
description = "Which shape does the image show? The prompt is a caption that a CLIP model compares with the image."
format = "caption"
seed_prompt = "a {label} and not some other thing"
labels = ["circle", "square", "triangle"]
[data]
train = "train.tsv"
validation = "validation.tsv"
test = "test.tsv"
inputs = ["image"]
label = "label"
"""
SPLITS = {"train": 48, "validation": 60, "test": 120}


def draw(shape: str, colour: str, generator: np.random.Generator) -> Any:
    """Return a noisy picture, uint8 [side, side, 3]."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    size = generator.uniform(7, 12)
    y, x = (grid - generator.uniform(size, SIDE - size) for grid in (rows, columns))
    inside = {
        "circle": y**2 + x**2 < size**2,
        "square": np.maximum(abs(y), abs(x)) < 0.85 * size,
        "triangle": (y < 0.8 * size) & (abs(x) < (y + size) / 1.8),
    }[shape]
    picture = np.where(inside[..., None], COLOURS[colour], 235.0) + generator.normal(0, 15, (SIDE, SIDE, 3))
    return picture.clip(0, 255).astype(np.uint8)


def train_clip(folder: Path, steps: int = 240) -> None:
    """Train a tiny CLIP of random weights on drawn shapes and their captions, and save it as transformers does."""
    words = dict.fromkeys(
        ["<pad>", "<s>", "<unk>", "</s>", *SHAPES, *COLOURS, *" ".join((*TRAINED, *NEGATED)).split(), *WORDS]
    )
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        f'{{"size": {{"shortest_edge": {SIDE}}}, "crop_size": {{"height": {SIDE}, "width": {SIDE}}}, "resample": 3, '
        '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": 24,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    torch.set_num_threads(1)  # the matrices are so small that more threads only wait for one another
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config=layers | text | {"num_hidden_layers": 1},
            vision_config=layers | {"image_size": SIDE, "patch_size": 8},
            projection_dim=32,
        )
        network = CLIPModel(config).train()
        fit(network, fast, steps)
    network.save_pretrained(folder)


def fit(network: Any, tokenizer: Any, steps: int) -> None:
    """Bring pictures and the captions that are true of them together (CLIP's loss; a caption is true of many)."""
    generator = named_generator(0, "training pictures")
    shapes = generator.integers(len(SHAPES), size=1_000)
    pictures = torch.tensor(
        np.stack([draw(SHAPES[i], str(generator.choice(list(COLOURS))), generator) for i in shapes])
    )
    pictures = (pictures.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    said = [(text, i) for text in (*TRAINED, *NEGATED) for i in range(len(SHAPES))]
    captions = tokenizer([text.format(SHAPES[i]) for text, i in said], padding=True, return_tensors="pt")
    true = torch.tensor([[float((i == shape) == (text in TRAINED)) for text, i in said] for shape in shapes.tolist()])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.from_numpy(generator.choice(len(shapes), size=48, replace=False))
        logits = network(pixel_values=pictures[rows], **captions).logits_per_image  # [48, captions]
        by_picture, by_caption = (part / part.sum(dim=1, keepdim=True) for part in (true[rows], true[rows].T))
        loss = cross_entropy(logits, by_picture) + cross_entropy(logits.T, by_caption)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def write_task(folder: Path) -> Path:
    """Draw the pictures of a task, and write its file."""
    generator = named_generator(0, "task pictures")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, size in SPLITS.items():
        rows = ["image\tlabel"]
        for number in range(size):
            shape, name = SHAPES[number % len(SHAPES)], f"images/{split}{number}.npy"
            np.save(folder / name, draw(shape, str(generator.choice(list(COLOURS))), generator))
            rows.append(f"{name}\t{shape}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "task.toml").write_text(TASK)
    return folder / "task.toml"


def writer(request: Request) -> str:
    """Play a prompt writer: change, drop or add one word of the best template that it is shown."""
    message = str(request.context[-1][1])
    shown = re.findall(r"<prompt>(.*?)</prompt>", message)
    if not shown:
        return "ready"
    best = shown[0].split()
    return "\n".join(f"<prompt>{' '.join(new)}</prompt>" for new in changed(best, request.replicate + len(message)))


def changed(words: list[str], seed: int, count: int = 8) -> Iterator[list[str]]:
    """Yield templates that are one word away."""
    generator = named_generator(seed, "writer")
    for _ in range(count):
        place, word = int(generator.integers(len(words) + 1)), str(generator.choice(WORDS))
        rest = words[place:]
        drop = bool(rest) and rest[0] != "{label}" and generator.random() < 0.7
        yield [*words[:place], *([word] if not drop or generator.random() < 0.5 else []), *rest[drop:]]


def main(folder: Path) -> Result:
    """Train, draw, search."""
    train_clip(folder / "clip")
    pool = Path(__file__).with_name("templates.txt")
    return optimize(
        write_task(folder),
        f"local-clip:{folder / 'clip'}",
        "hillclimb",
        writer=FakeModel(writer, "one word at a time"),
        settings={"prompts": str(pool), "restarts": 2, "iterations": 4, "longest": 80},
        run_dir=folder / "run",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/clip_templates"), help="for the model, pictures and result"
    )
    print(main(parser.parse_args().folder))
