"""Providers and servers: how each is reached, and what it takes that others do not. The one table of them; pure values.

The source of each entry is named beside it. `docs/works-with.md` says which were run and which only read about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from promptopt.models.base import Price
from promptopt.models.hosted.dialect import LOGPROBS

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPENAI_OPTIONS = {
    "response_format": "response_format",
    "reasoning_effort": "reasoning_effort",
    "seed": "seed",
    "logit_bias": "logit_bias",
}


class Service(NamedTuple):
    """How to reach a provider or server.

    Args:
        name: of the provider, in fingerprints; also that of the kind.
        sdk: module of the official SDK.
        client: name of the SDK's client class, after `Async`.
        endpoint: default base URL.
        endpoint_variable: environment variable that overrides it, or "".
        key_variable: environment variable that holds the key.
        headers: sent with every call, replacing the SDK's own.
        options: request option -> field of the body, with dots within tables. Others are refused.
        omitted: optional fields that are never sent.
        needs_key: whether calls without a key are refused before they are sent.
        price: dollars per million tokens if none is given.
        prices: the provider's name in the table of list prices, or "" if it has none.
        json_mode: whether it takes the response format "json".
        batches: whether batches of the protocol are sent there, where it has them.
        max_image_bytes: most bytes of an image in base64.
    """

    name: str
    sdk: str
    client: str
    endpoint: str
    endpoint_variable: str
    key_variable: str
    headers: Mapping[str, str] | None = None
    options: Mapping[str, str] = {}
    omitted: frozenset[str] = frozenset()
    needs_key: bool = True
    price: Price | None = None
    prices: str = ""
    json_mode: bool = True
    batches: bool = True
    # developers.openai.com/api/docs/guides/images-vision, of a whole request: no service here is known to take more
    max_image_bytes: int = 50_000_000


OPENAI = Service(
    name="openai",
    sdk="openai",
    client="OpenAI",
    endpoint="https://api.openai.com/v1",
    endpoint_variable="OPENAI_BASE_URL",
    key_variable="OPENAI_API_KEY",
    options=_OPENAI_OPTIONS,
    prices="openai",
)
ANTHROPIC = Service(
    name="anthropic",
    sdk="anthropic",
    client="Anthropic",
    endpoint="https://api.anthropic.com",
    endpoint_variable="ANTHROPIC_BASE_URL",
    key_variable="ANTHROPIC_API_KEY",
    # The API's next version, which newer SDKs request, rejects the temperature for every model.
    headers={"anthropic-version": "2023-06-01"},
    # anthropic 2.14, types/output_config_param.py and types/thinking_config_enabled_param.py
    options={
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
        "thinking_budget": "thinking",
    },
    prices="anthropic",
    json_mode=False,
    max_image_bytes=10 * 2**20,  # platform.claude.com/docs/en/build-with-claude/vision: 10 MB of base64 for each image
)


_COMPATIBLE = OPENAI._replace(endpoint_variable="", prices="")
_OWN_SERVER = _COMPATIBLE._replace(needs_key=False, price=Price(0.0, 0.0))
_WITHOUT_BIAS = {name: field for name, field in _OPENAI_OPTIONS.items() if name != "logit_bias"}

NAMED = {
    "gemini": _COMPATIBLE._replace(
        name="gemini",
        endpoint="https://generativelanguage.googleapis.com/v1beta/openai",  # ai.google.dev/gemini-api/docs/openai
        key_variable="GEMINI_API_KEY",  # the same page
        # The same page, on thinking: the body has a field named extra_body. It does not name logit_bias.
        options=_WITHOUT_BIAS | {"thinking_budget": "extra_body.google.thinking_config.thinking_budget"},
        prices="google",
    ),
    "ollama": _OWN_SERVER._replace(
        name="ollama",
        endpoint="http://localhost:11434/v1",  # docs.ollama.com/api/openai-compatibility
        key_variable="OLLAMA_API_KEY",  # the same page: for its cloud; a local server ignores the key
        options=_WITHOUT_BIAS,  # the same page: logit_bias is not among the supported fields
    ),
    "openrouter": _COMPATIBLE._replace(
        name="openrouter",
        endpoint="https://openrouter.ai/api/v1",  # openrouter.ai/docs/quickstart
        key_variable="OPENROUTER_API_KEY",
        # openrouter.ai/docs/use-cases/reasoning-tokens: the table `reasoning`, with one of the two
        options=_OPENAI_OPTIONS | {"reasoning_effort": "reasoning.effort", "thinking_budget": "reasoning.max_tokens"},
        prices="openrouter",
    ),
    "groq": _COMPATIBLE._replace(
        name="groq",
        endpoint="https://api.groq.com/openai/v1",  # console.groq.com/docs/openai
        key_variable="GROQ_API_KEY",  # the same page
        options=_WITHOUT_BIAS,  # the same page: logit_bias "will result in a 400 error"
        omitted=frozenset({LOGPROBS}),  # the same page: so will logprobs and top_logprobs
        prices="groq",
    ),
    "mistral": _COMPATIBLE._replace(
        name="mistral",
        endpoint="https://api.mistral.ai/v1",  # docs.mistral.ai/api
        key_variable="MISTRAL_API_KEY",
        options=_WITHOUT_BIAS | {"seed": "random_seed"},  # the same page; it lists no logit_bias
        prices="mistral",
    ),
    "vllm": _OWN_SERVER._replace(
        name="vllm",
        endpoint="http://localhost:8000/v1",  # docs.vllm.ai/en/stable/serving/openai_compatible_server.html
        key_variable="VLLM_API_KEY",  # docs.vllm.ai, environment variables: the server's own name of its key
    ),
    "lmstudio": _OWN_SERVER._replace(
        name="lmstudio",
        endpoint="http://localhost:1234/v1",  # lmstudio.ai/docs/api/openai-api
        key_variable="LMSTUDIO_API_KEY",  # our name: the server ignores the key
        # github.com/lmstudio-ai/lmstudio-bug-tracker/issues/189: "'response_format.type' must be 'json_schema'"
        json_mode=False,
    ),
}
"""Kind -> service, of those that speak OpenAI's protocol under an address of their own."""

# The variables are those that the SDKs read: openai 3.57, lib/azure.py; anthropic 2.14, lib/bedrock/ and lib/vertex/. A deployment
# at Azure may have any name, so its price is not known.
AZURE = _COMPATIBLE._replace(
    name="azure",
    client="AzureOpenAI",
    endpoint="",
    endpoint_variable="AZURE_OPENAI_ENDPOINT",
    key_variable="AZURE_OPENAI_API_KEY",
    batches=False,
)
_CLOUD = ANTHROPIC._replace(
    headers=None,
    endpoint="",
    needs_key=False,
    batches=False,
    max_image_bytes=5 * 2**20,  # the page named above: 5 MB at clouds
)
BEDROCK = _CLOUD._replace(
    name="bedrock",
    client="AnthropicBedrock",
    endpoint_variable="ANTHROPIC_BEDROCK_BASE_URL",
    key_variable="AWS_BEARER_TOKEN_BEDROCK",
    prices="aws",
)
VERTEX = _CLOUD._replace(
    name="vertex",
    client="AnthropicVertex",
    endpoint_variable="ANTHROPIC_VERTEX_BASE_URL",
    key_variable="VERTEX_ACCESS_TOKEN",  # our name: the SDK reads no token from the environment
    prices="google",
)
