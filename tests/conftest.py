"""Shared fixtures: every test has a memo of its own, no keys, and no way to pay."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from promptopt.models.hosted.endpoint import endpoint_of
from promptopt.models.local.catalog import KNOWN, model_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config

# A slow machine is no defect: no test is timed. Each run draws other examples, so half of the usual hundred are enough.
settings.register_profile("untimed", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# What a script starts with `&` ignores Ctrl-C, and so does all that it starts; tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray's workers run at niceness 15 by default, and starve beside other tests.
os.environ.setdefault("RAY_worker_niceness", "0")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# What tests use and start, and a file for type checkers: no test is in them, and each worker would import them all.
collect_ignore = ["servers", *(path.name for path in TESTS.glob("*.py") if not path.name.startswith("test_"))]

# Imports make millions of objects and hardly any garbage: looking for it took a quarter of the time that collecting tests takes.
gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from here on, among what tests make."""
    gc.enable()


@pytest.fixture(autouse=True)
def _own_memo_and_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", str(tmp_path / "memo"))
    monkeypatch.setenv("PROMPTOPT_NO_PAID_CALLS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _unknown_endpoints() -> None:
    """Forget what endpoints did: a port that an earlier test's failing server had may come again."""
    endpoint_of.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _migrations_read_once() -> Iterator[None]:
    """Optuna reads its migration scripts three times for each new study, which takes longer than a toy's run."""
    from alembic.script import ScriptDirectory

    directories: dict[str | None, ScriptDirectory] = {}
    read = ScriptDirectory.from_config

    def kept(config: Config) -> ScriptDirectory:
        return directories.setdefault(config.get_main_option("script_location"), read(config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", kept)
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The small real model's file."""
    path = model_file("smollm2")
    if not path.exists():
        pytest.skip(f"{KNOWN['smollm2'].filename} is not here: promptopt models fetch smollm2")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, which lies beside the project or where PROMPTOPT_TEST_DATA says."""
    path = Path(os.environ.get("PROMPTOPT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no public data sets at {path}: set PROMPTOPT_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real transformers model of random weights, small enough to run anywhere: two layers of width 32."""
    from tiny import build_llama

    return build_llama(tmp_path_factory.mktemp("llama"))
