"""What the SDK raises when a count fails -> a CountError that says what to do.

Everything is told by attributes and class names: nothing here imports the SDK. No message ever
holds a credential, whatever the SDK, the API or the HTTP library put into theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_llmcost.errors import CountError
from pytest_llmcost.pricing.arn import mask_account

_SECRET = re.compile(r"sk-ant-[\w-]+|(?i:bearer|x-api-key:?)\s+[\w.~+/=-]{8,}")
_ACCOUNT = re.compile(r"credit|billing|organi[sz]ation|workspace|usage limit", re.IGNORECASE)
"""Refusals with the same status that say nothing of the payload."""
_OVERRIDE = "override the fixture llmcost_client"
_REMEDIES = {
    401: f"set ANTHROPIC_API_KEY to a valid key, or {_OVERRIDE} to make a client that has one",
    402: "see the organisation's billing settings",
    403: f"use a key that may call this model, or {_OVERRIDE}",
    404: f"check the model id; behind a gateway or on a cloud, {_OVERRIDE}",
    413: "send a smaller payload; the API would not take it from the application either",
    429: "wait, then run again; what has been counted so far is kept",
    529: "run again later; what has been counted so far is kept",
}


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of the SDK's; None where no answer came."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def message_of(error: BaseException) -> str:
    """The API's own words, without credentials."""
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return without_secrets(str(message or error))


def without_secrets(text: str) -> str:
    """Black out anything that looks like a credential, and the account in ARNs of AWS."""
    return mask_account(_SECRET.sub("[key]", text))


def retry_after(error: BaseException) -> float | None:
    """Seconds that the API asked to wait, where it did."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    try:
        return max(0.0, float(headers["retry-after"])) if headers else None
    except (KeyError, ValueError):
        return None


def explain_failure(error: BaseException, *, model: str, host: str) -> CountError:
    """Say why counting failed and what would help."""
    status = status_of(error)
    if status is not None:
        if status == 400:
            return explain_refusal(message_of(error), model)
        said = _explain_status(error, status, model)
        passing = status in (408, 409, 429) or status >= 500
        return CountError(said, status=status, retry_after=retry_after(error), may_pass=passing)
    if isinstance(error, TypeError) and "authentication" in str(error):
        return CountError(f"no credentials to count {model} with: {_REMEDIES[401]}")
    if "Bedrock" in str(error):
        return CountError(
            "the Bedrock client of the SDK cannot count tokens; counting is free on Anthropic's "
            f"own API: {_OVERRIDE} to return anthropic.Anthropic(), or "
            "anthropic.AnthropicBedrockMantle() to stay on AWS"
        )
    if type(error).__name__ in ("APITimeoutError", "APIConnectionError"):
        return CountError(_explain_connection(error, host), may_pass=True)
    text = without_secrets(str(error))
    return CountError(f"counting {model} failed: {type(error).__name__}: {text}")


def explain_refusal(said: str, model: str) -> CountError:
    """Say that a payload is refused, now or when it was recorded (400)."""
    return CountError(
        f"the API refused to count this payload for {model} (400): {said}. "
        "`messages.create` would most likely refuse it as well; correct the payload",
        status=400,
        refusal=None if _ACCOUNT.search(said) else said,
    )


def _explain_status(error: BaseException, status: int, model: str) -> str:
    said = message_of(error)
    remedy = _REMEDIES.get(status) or _REMEDIES[529]
    seconds = retry_after(error)
    wait = f" (retry after {seconds:g} s)" if seconds is not None else ""
    return f"counting {model} failed with status {status}{wait}: {said}; {remedy}"


def _explain_connection(error: BaseException, host: str) -> str:
    causes = " <- ".join(
        f"{type(cause).__name__}: {without_secrets(str(cause))}" for cause in _causes(error)
    )
    return (
        f"no answer from {host} while counting ({causes or type(error).__name__}); check the "
        "network, ANTHROPIC_BASE_URL and the proxy settings, then run again"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The first cause alone; those below say the same in other words."""
    if error.__cause__ is not None:
        yield error.__cause__


def explain_block(reason: str, host: str) -> CountError:
    """Say that a plugin forbids connections."""
    return CountError(
        f"counting needs a connection to {host}, and this test forbids connections ({reason}); "
        "allow that host (block_network(allowed_hosts=...), --allow-hosts), or run without "
        "recording counts"
    )
