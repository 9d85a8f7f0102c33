"""The table of the kinds of models."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from servers.loopback import Loopback

from promptopt import FakeModel, InputError, load_model
from promptopt.models import HOSTED, KINDS

if TYPE_CHECKING:
    from pathlib import Path


def test_a_hosted_kind_takes_an_endpoint_and_stands_in_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_VERSION", "AWS_REGION", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID"):
        monkeypatch.setenv(variable, "any")
    with Loopback(lambda _: "yes") as server:
        for kind in HOSTED:
            model = load_model(f"{kind}:tiny", base_url=server.url, extra_body={"user": "any"})
            assert (model.fingerprint["provider"], model.fingerprint["model"]) == (kind, "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_refuses_what_it_does_not_take(kind: str) -> None:
    if not KINDS[kind].hosted:
        with pytest.raises(InputError, match="has no endpoint"):
            load_model(f"{kind}:tiny", base_url="http://127.0.0.1:9")
        with pytest.raises(InputError, match="sends no requests"):
            load_model(f"{kind}:tiny", extra_body={"a": 1})
    if not KINDS[kind].tokenizer:
        with pytest.raises(InputError, match="does not take a tokenizer"):
            load_model(f"{kind}:tiny", tokenizer="tiny")


def test_a_python_model_may_be_a_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here_only.py").write_text(
        "from promptopt import FakeModel\nmodel = FakeModel(str)\n", encoding="utf-8"
    )
    (tmp_path / "needs_more.py").write_text("import no_such_package\n", encoding="utf-8")
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)

    assert isinstance(load_model("python:here_only:model"), FakeModel)
    with pytest.raises(InputError, match=r"no module 'absent'; put absent.py into .* or install its package"):
        load_model("python:absent:model")
    with pytest.raises(InputError, match="No module named 'no_such_package'"):
        load_model("python:needs_more:model")
    assert sys.path == path
