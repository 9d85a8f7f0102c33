"""Read the options, load the models, and measure cell by cell."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from promptopt import PromptoptError
from promptopt.models.local import LocalModel
from promptopt.models.local.catalog import KNOWN, model_file
from promptopt.models.local.loading import Files, choose_device

from . import __doc__ as about
from .memory import EXAMPLES, PROMPTS, measure_memory
from .turns import REFERENCE, Models, measure
from .work import DATA_SETS, Cell

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GPU_SHAPES = {
    "llama-3-8b": transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    ),
}
PACKAGES = ("promptopt-toolkit", "torch", "transformers", "lm_eval", "llama_cpp_python")


class Size(NamedTuple):
    """How much is measured where the options do not say."""

    data_sets: tuple[str, ...]
    demonstrations: tuple[int, ...]
    prompts: int
    examples: int
    baseline_prompts: int


SIZES = {
    "small": Size(("sst-2",), (1,), 16, 16, 4),
    "full": Size(("sst-2", "agnews"), (1, 4), 50, 32, 8),
}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local_scoring", description=about)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    add("--model", default="smollm2", help="a known model, a GGUF file or a folder")
    add("--size", choices=SIZES, default="small", help="sets what the next five options leave open")
    add("--data-set", nargs="+", choices=DATA_SETS)
    add("--demonstrations", nargs="+", type=int, help="of each label, in the parent prompt")
    add("--own-demonstrations", action="store_true", help="random ones for each sequence: no common prefix")
    add("--prompts", type=int, help="mutants of a parent")
    add("--examples", type=int, help="after each prompt")
    add("--baseline-prompts", type=int, help="how many of the prompts the other ways get, with all examples")
    add("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="of the engine")
    add("--repeats", type=int, default=3, help="turns, after one to warm up")
    add("--gpu-shape", choices=GPU_SHAPES, help="random weights in this shape, on CUDA; the model gives the tokenizer")
    add(
        "--memory",
        action="store_true",
        help=f"peak memory of one dtype instead, {PROMPTS} prompts x {EXAMPLES} examples",
    )
    return parser.parse_args()


def compare(path: Path, options: argparse.Namespace) -> None:
    """Measure every cell."""
    size: Size = SIZES[options.size]
    device = torch.device(choose_device("auto"))
    files = Files(str(path))
    dtypes = [DTYPES[name] for name in options.dtype]
    plain = {dtype: files.network(dtype, device) for dtype in dict.fromkeys((REFERENCE, *dtypes))}
    engines = {DTYPES[name]: LocalModel(str(path), dtype=name) for name in options.dtype}
    models = Models(path, device, files.tokenizer, plain, engines)
    for data_set in options.data_set or size.data_sets:
        for demonstrations in options.demonstrations or size.demonstrations:
            cell = Cell(
                data_set,
                demonstrations,
                options.prompts or size.prompts,
                options.examples or size.examples,
                options.own_demonstrations,
            )
            few = min(options.baseline_prompts or size.baseline_prompts, cell.prompts)
            measure(cell, models, options.data, repeats=options.repeats, baseline_prompts=few)


def memory(path: Path, options: argparse.Namespace) -> None:
    """Measure the peak, in a process that holds nothing but the engine."""
    if len(options.dtype) != 1:
        raise SystemExit("--memory measures one dtype in one process: give --dtype float32 or --dtype bfloat16")
    cell = Cell("sst-2", 4, options.prompts or PROMPTS, options.examples or EXAMPLES)
    measure_memory(LocalModel(str(path), dtype=options.dtype[0], device="cpu"), cell, options.data)


def print_setting(model: str) -> None:
    """Name the model, the machine and the versions."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    print(f"{model} on {processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}")
    print(f"Python {platform.python_version()}, {', '.join(map(version, PACKAGES))}\n", flush=True)


def version(package: str) -> str:
    """Return a package's name with its version."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def write_random(config: transformers.PretrainedConfig, tokenizer: Any, folder: Path, device: torch.device) -> None:
    """Write a bfloat16 model of random weights, which every way then loads like any other."""
    torch.manual_seed(0)
    with device:
        network: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Measure what the options ask for."""
    options = read_options()
    if not options.data.is_dir():
        print(f"left out: there are no data sets at {options.data}, see --data")
        return
    if options.gpu_shape and not torch.cuda.is_available():
        raise SystemExit("--gpu-shape needs a CUDA device, and torch sees none")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each option that a model object makes idle
    files = Files(options.model)
    path = model_file(options.model) if options.model in KNOWN else Path(options.model)
    print(f"{about.strip()}\n")
    print_setting(f"random weights, {options.gpu_shape}" if options.gpu_shape else path.name)
    with tempfile.TemporaryDirectory() as folder:
        if options.gpu_shape:
            path = Path(folder)
            write_random(GPU_SHAPES[options.gpu_shape], files.tokenizer, path, torch.device(choose_device("auto")))
        (memory if options.memory else compare)(path, options)


if __name__ == "__main__":
    try:
        main()
    except PromptoptError as error:
        raise SystemExit(str(error)) from error
