"""The table of the kinds of models."""

from __future__ import annotations

import pytest
from servers.loopback import Loopback

from promptopt import InputError, load_model
from promptopt.models import HOSTED, KINDS


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
