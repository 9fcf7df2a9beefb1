"""Which request is a Claude call, and on which platform: by method and path, whatever the host.

OpenAI and many others have `/v1/chat/completions`, too, at prices of their own: it is metered on
Anthropic's host alone. Elsewhere, and on other routes that are not metered, a request is a Claude
call if it names a Claude model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from pytest_llmcost.json_values import decode_json
from pytest_llmcost.prices.usage import Platform, mapping, text_of

Kind = Literal["messages", "count_tokens", "batch_create", "batch_results", "unmetered"]
Form = Literal["messages", "converse", "chat"]
"""Whose names a payload has: the Messages API's, Bedrock's Converse's, or OpenAI's."""

_DIRECT = re.compile(
    r"(?:/locations/(?P<location>[^/]+)/workspaces/[^/]+/invoke)?"
    r"(?:^|/)v1/messages(?:/(?P<count>count_tokens)"
    r"|/(?P<batches>batches)(?:/(?P<batch>[^/]+)/results)?)?/?$"
)
"""Anthropic's own paths; on Google Cloud behind the place of inference. Source: the SDK's
`AnthropicGoogleCloud`, release 2.14.0."""
_BEDROCK_HOST = re.compile(r"(?:^|\.)bedrock-(?:mantle|runtime)(?:-fips)?\.")
"""Both have the Messages API.
Source: https://docs.aws.amazon.com/bedrock/latest/userguide/inference-messages-api.html"""
_BEDROCK = re.compile(
    r"/model/(?P<model>.+)/(?P<verb>"
    r"invoke|invoke-with-response-stream|converse|converse-stream|count-tokens)/?$"
)
_VERTEX = re.compile(
    r"(?:/locations/(?P<location>[^/]+))?/publishers/anthropic/models/"
    r"(?P<model>[^/]+):(?P<verb>rawPredict|streamRawPredict)$"
)
_HOST = "api.anthropic.com"
_SAMPLING = re.compile(
    r"(?:/v1)?/(?:chat/completions|completions|complete|responses"
    r"|batchPredictionJobs|model-invocation-job)/?$",
    re.IGNORECASE,
)
"""Of the OpenAI-compatible API, Anthropic's old text completions, and batches of Google Cloud and
Bedrock, whose results are files. Sources:
https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude-batch and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_CreateModelInvocationJob.html"""
_MESSAGES = re.compile(r"/{1,2}v1/+messages/?$", re.IGNORECASE)
_CHAT = re.compile(r"^/v1/chat/completions/?$")
_CLAUDE = re.compile(r"(?:^(?:databricks-)?|[./~])(?:claude|anthropic)(?![a-z])", re.IGNORECASE)
"""In a model's name, also behind a vendor, a region or a gateway's prefix. Databricks' own is from
https://docs.databricks.com/aws/en/machine-learning/foundation-model-apis/supported-models."""
_GOVERNMENT = re.compile(r"arn:aws-us-gov:|(?:.*[/:])?us-gov[.-]")
"""A model id of AWS GovCloud (US), or an ARN with its partition or one of its regions."""
_OPAQUE_ARN = re.compile(
    r"arn:[^:]*:bedrock:[^:]*:[^:]*:"
    r"(?!(?:foundation-model|inference-profile|default-prompt-router|imported-model"
    r"|custom-model-deployment)/)"
)
"""Of what runs a model that it does not name: an application inference profile, a prompt, a
provisioned model. The first three kinds here name theirs; an imported model, and one that was
customised and is paid by the token, is never Claude. Sources:
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://docs.aws.amazon.com/bedrock/latest/userguide/deploy-custom-model-on-demand.html"""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is, as far as its method and URL say."""

    kind: Kind
    form: Form = "messages"
    platform: Platform | None = None
    """The cloud; nothing is Anthropic's own API, or a host that charges its list price."""
    model: str | None = None
    """The model as the URL spells it, decoded; elsewhere the body names it."""
    stream: bool | None = None
    """Whether the URL asks for a stream; None if only the body says so."""
    batch_id: str | None = None
    route: str | None = None
    """Where a request goes that samples, but whose answer is not read: host and end of path."""

    @property
    def is_sampling(self) -> bool:
        """Whether an answer costs something right away."""
        return self.kind in ("messages", "unmetered")

    def is_claude(
        self,
        headers: Mapping[str, str],
        payload: Mapping[str, Any],
        replies: Iterable[Mapping[str, Any]] = (),
    ) -> bool:
        """Tell whether a request to it is one to Claude beyond its path, or its replies are.

        Any mail service may have that of messages, too, and an opaque ARN any vendor's model.
        """
        if self.kind != "messages" or self.form != "messages":
            return True
        if self.model is None:
            is_asked = {"model", "messages", "max_tokens"} <= payload.keys()
            is_asked |= "anthropic-version" in headers
            return is_asked or any(each.get("usage") for each in replies)
        # Bedrock takes no request to Claude without a version.
        is_asked = not _OPAQUE_ARN.match(self.model) or "anthropic_version" in payload
        return is_asked or any(_CLAUDE.search(str(each.get("model"))) for each in replies)


def recognise(method: str, url: str, body: bytes = b"") -> Endpoint | None:
    """Return which Claude endpoint a request goes to, or None for any other request.

    Works under any host and any gateway prefix, with or without a query. On routes that are not
    metered the body may name a Claude model.

    Source: https://platform.claude.com/docs/en/api/messages and the SDK's Bedrock and Vertex
    clients, release 2.12.0, read 2026-11-22.

    Example:
        >>> recognise("POST", "https://gateway.example/anthropic/v1/messages?beta=true").kind
        'messages'
        >>> recognise("POST", "https://api.anthropic.com/v1/complete").route
        'api.anthropic.com/v1/complete'
        >>> recognise("POST", "https://api.openai.com/v1/chat/completions", b"{}")
    """
    endpoint = _endpoint_of(method, url)
    if endpoint is None or endpoint.kind != "unmetered":
        return endpoint
    model = None
    if any(name in body.lower() for name in (b"claude", b"anthropic")):
        # Not before: to decode what is OpenAI's takes far longer.
        asked = mapping(decode_json(body))
        model = text_of(asked.get("model")) or text_of(asked.get("modelId"))
    is_claude = str(endpoint.route).startswith(f"{_HOST}/") or (model and _CLAUDE.search(model))
    return msgspec.structs.replace(endpoint, model=model) if is_claude else None


@functools.lru_cache(maxsize=256)
def _endpoint_of(method: str, url: str) -> Endpoint | None:
    """Return where a request goes, as far as its URL says; `unmetered` may be another API's."""
    try:
        parts = urlsplit(url)
    except ValueError:  # for example an unclosed bracket in a hand-edited recording
        return None
    path = unquote(parts.path)
    host, method = (parts.hostname or "").rstrip("."), method.upper()
    if match := _DIRECT.search(path):
        # Clouds have Anthropic's own paths, too. On Bedrock the model, hence the region, is then in
        # the body.
        platform: Platform | None = None
        if match["location"]:
            platform = _google_platform(match["location"])
        elif _BEDROCK_HOST.search(host):
            platform = "bedrock-gov" if ".us-gov-" in host else "bedrock-unknown"
        elif host.endswith((".services.ai.azure.com", ".cognitiveservices.azure.com")):
            platform = "foundry"
        if match["batch"] and method == "GET":
            return Endpoint(kind="batch_results", platform=platform, batch_id=match["batch"])
        if match["batch"] or method != "POST":
            return None
        kind: Kind = "count_tokens" if match["count"] else "messages"
        return Endpoint(kind="batch_create" if match["batches"] else kind, platform=platform)
    if method != "POST":
        return None
    if host == _HOST and _CHAT.match(path):
        return Endpoint(kind="messages", form="chat")
    if match := _BEDROCK.search(path):
        return _bedrock_endpoint(match["model"], match["verb"], host)
    if match := _VERTEX.search(path):
        model, location = match["model"], match["location"]
        if model == "count-tokens":
            return Endpoint(kind="count_tokens", platform="vertex", stream=False)
        return Endpoint(
            kind="messages",
            platform="vertex-unknown" if location is None else _google_platform(location),
            model=model,
            stream=match["verb"] == "streamRawPredict",
        )
    path = path.partition(";")[0]  # behind it, parameters. Source: RFC 3986, 3.3
    match = _SAMPLING.search(path) or (_MESSAGES.search(path) if host == _HOST else None)
    if match is None:
        return None
    # Ahead of it, a gateway may have an account or a key.
    return Endpoint(kind="unmetered", route=f"{host}{'/…' if match.start() else ''}{match[0]}")


def _bedrock_endpoint(model: str, verb: str, host: str) -> Endpoint | None:
    if "claude" not in model and "anthropic" not in model and not _OPAQUE_ARN.match(model):
        return None
    if verb == "count-tokens":
        return Endpoint(kind="count_tokens", platform="bedrock", model=model, stream=False)
    return Endpoint(
        kind="messages",
        form="converse" if verb.startswith("converse") else "messages",
        platform="bedrock-gov" if ".us-gov-" in host else bedrock_platform(model),
        model=model,
        stream=verb.endswith("-stream"),
    )


def bedrock_platform(model: str) -> Platform:
    """Return whether a Bedrock id is a global, a regional, a GovCloud or an opaque one.

    Every id without the `global.` prefix is regional. Whether that costs more depends on the
    model's generation, which the rate card knows.

    Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08
    """
    if _GOVERNMENT.match(model):
        return "bedrock-gov"
    if _OPAQUE_ARN.search(model):
        return "bedrock-unknown"
    name = model.rpartition("/")[2]
    return "bedrock" if name.startswith("global.") else "bedrock-regional"


def _google_platform(location: str) -> Platform:
    # Every location but `global` is regional.
    # Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08
    return "vertex" if location == "global" else "vertex-regional"
