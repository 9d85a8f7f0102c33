"""Models that clouds host, over the official SDKs' own clients: OpenAI's at Azure, Anthropic's at Amazon Bedrock and Vertex AI.

The protocols are those of `openai` and `anthropic`; only addresses and credentials differ. Knows no credentials but a token.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, PermanentModelError
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.hosted.services import AZURE, BEDROCK, VERTEX

if TYPE_CHECKING:
    from promptopt.models.base import Request
    from promptopt.models.hosted.dialect import Dialect

_CREDENTIAL_ERRORS = {"botocore.exceptions": "BotoCoreError", "google.auth.exceptions": "GoogleAuthError"}


class AzureModel(OpenAIModel):
    """A deployment of an OpenAI model at Azure.

    Takes the arguments of `HostedModel`; the base URL is the resource's, such as https://NAME.openai.azure.com. The API's
    version is read from OPENAI_API_VERSION.

    Args:
        name: of the deployment.
        settings: arguments of `HostedModel`.

    Raises:
        InputError: as `HostedModel`, or the address or the API's version is missing.
    """

    service = AZURE

    def __init__(self, name: str, **settings: Any) -> None:
        self._version = _required(
            "OPENAI_API_VERSION", f"azure:{name}", "the version of Azure's API, such as 2024-10-21"
        )
        if not settings.get("base_url"):
            address = _required(AZURE.endpoint_variable, f"azure:{name}", "the resource's address (or give --base-url)")
            settings["base_url"] = address
        super().__init__(name, **settings)
        self.fingerprint["api_version"] = self._version

    def client_settings(self) -> dict[str, Any]:
        """Return the arguments for an SDK client of this endpoint."""
        settings = super().client_settings()
        address = {"azure_endpoint": settings.pop("base_url"), "azure_deployment": self.name}
        return settings | address | {"api_version": self._version}


class _CloudModel(AnthropicModel):
    """An Anthropic model at a cloud, which has credentials of its own where no token is given."""

    packages: tuple[str, ...]  # that read the cloud's own credentials
    extra: str  # of the SDK, that installs them
    version: str  # of the API, in the body; the default of newer SDKs rejects the temperature for every model

    def _body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        return super()._body(request, dialect) | {"anthropic_version": self.version}

    def check_key(self) -> None:
        """Check that there may be credentials, and that calls to other machines are allowed.

        Raises:
            PermanentModelError: a check failed; the message says what to set.
        """
        super().check_key()
        if not self._key and not all(map(_is_installed, self.packages)):
            raise PermanentModelError(
                f"no credentials for {self.endpoint}: set {self.service.key_variable}, or install what reads the cloud's own "
                f"(pip install 'anthropic[{self.extra}]')",
                endpoint=self.endpoint,
            )

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        try:
            return await super()._send(client, body)
        except _credential_errors() as error:
            raise PermanentModelError(
                f"the credentials for {self.endpoint} cannot be used ({type(error).__name__}): sign in to the cloud again, or set "
                f"{self.service.key_variable}",
                endpoint=self.endpoint,
            ) from None


class BedrockModel(_CloudModel):
    """A Claude model at Amazon Bedrock, with a Bedrock API key or the credentials that boto3 finds.

    Takes the arguments of `HostedModel`; the region is read from AWS_REGION or AWS_DEFAULT_REGION.

    Args:
        name: Bedrock's name of the model or inference profile.
        settings: arguments of `HostedModel`.

    Raises:
        InputError: as `HostedModel`, or the region is missing.
    """

    service = BEDROCK
    packages = ("boto3", "botocore")
    extra = "bedrock"
    version = "bedrock-2023-05-31"  # docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html

    def __init__(self, name: str, **settings: Any) -> None:
        self._region = os.environ.get("AWS_DEFAULT_REGION", "")
        if not self._region or os.environ.get("AWS_REGION"):
            self._region = _required("AWS_REGION", f"bedrock:{name}", "a region such as us-east-1")
        address = f"https://bedrock-runtime.{self._region}.amazonaws.com"  # anthropic 2.14, lib/bedrock/_client.py
        super().__init__(name, service=BEDROCK._replace(endpoint=address), **settings)
        self.fingerprint["region"] = self._region

    def client_settings(self) -> dict[str, Any]:
        """Return the arguments for an SDK client of this endpoint."""
        return super().client_settings() | {"api_key": self._key or None, "aws_region": self._region}


class VertexModel(_CloudModel):
    """A Claude model at Google's Vertex AI, with an access token or the application default credentials.

    Takes the arguments of `HostedModel`; the project is read from ANTHROPIC_VERTEX_PROJECT_ID and the region from CLOUD_ML_REGION.

    Args:
        name: Vertex AI's name of the model.
        settings: arguments of `HostedModel`.

    Raises:
        InputError: as `HostedModel`, or the project or the region is missing.
    """

    service = VERTEX
    packages = ("google.auth", "requests")
    extra = "vertex"
    version = "vertex-2023-10-16"  # docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude

    def __init__(self, name: str, **settings: Any) -> None:
        self._region = _required("CLOUD_ML_REGION", f"vertex:{name}", "a region such as global or us-east5")
        self._project = _required("ANTHROPIC_VERTEX_PROJECT_ID", f"vertex:{name}", "the project")
        super().__init__(name, service=VERTEX._replace(endpoint=_vertex_address(self._region)), **settings)
        self.fingerprint["region"] = self._region

    def client_settings(self) -> dict[str, Any]:
        """Return the arguments for an SDK client of this endpoint."""
        settings = super().client_settings()
        settings.pop("api_key")
        return settings | {"access_token": self._key or None, "region": self._region, "project_id": self._project}


def _vertex_address(region: str) -> str:
    """Return a region's base URL, as anthropic 2.14, lib/vertex/_client.py."""
    if region == "global":
        return "https://aiplatform.googleapis.com/v1"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com/v1"
    return f"https://{region}-aiplatform.googleapis.com/v1"


def _required(variable: str, model: str, what: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InputError(f"{model} needs {what}: set {variable}")
    return value


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _credential_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the packages that read credentials, as far as they are loaded, and the SDK's where there are none."""
    loaded = [
        getattr(sys.modules[module], name) for module, name in _CREDENTIAL_ERRORS.items() if module in sys.modules
    ]
    return (RuntimeError, *loaded)
