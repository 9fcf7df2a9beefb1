"""Errors of the API and the SDK, explained: what happened and what to do.

Everything is read from attributes and class names: nothing here imports the SDK. No message ever
holds a credential, whatever the SDK, the API or the HTTP library put into theirs.
"""

from __future__ import annotations

import html
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from pytest_llmcost.errors import CountError
from pytest_llmcost.prices.model_names import mask_account

_NAME = (
    r"(?:api[_ -]?key|access[_-]?key(?:[_-]?id)?|subscription-key|secret(?:[_-]?key)?|"
    r"(?:access|auth|bearer|id|refresh|security|session)[_-]?token|password|authorization|cookie|"
    r"x-amz-signature|x-amz-credential)"
)
_NAMED = re.compile(
    # `signature` and `credential` are words, too, unless an equals sign follows.
    rf"""(?P<name>(?:{_NAME}["'\\]*(?:\s*(?:=>|[:=])|(?<=["'])\s*,|%3[ad])|"""
    r"""\b(?:signature|credential)(?:=|%3d))"""
    r"""[\s\[(]*(?:\bb(?=["']))?["'\\]*"""
    r"""(?:(?:bearer|basic|digest|token|negotiate)\s+)?)"""
    r"""[^\s"'\\&,;<>)\]}]{4,}""",
    re.IGNORECASE,
)
"""A credential behind its name: in a header, a query, JSON, or a list of pairs."""
_SECRET = re.compile(
    r"\bsk-[\w-]{6,}|\bAIza[\w-]{8,}|\bya29\.[\w.-]+|\b(?:AKIA|ASIA)[A-Z0-9]{8,}|"
    r"\bgh[opsru]_\w{8,}|\beyJ[\w-]{8,}\.[\w.-]+|(?<=://)[^\s/@]+(?=@)|"
    r"(?i:bearer|x-api-key:?)\s+[\w.~+/=-]{8,}"
)
"""A credential that is known by its form alone."""
_HTML = re.compile(
    r"(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_LONGEST_TITLE = 80
_LONGEST_TEXT = 500
_LONGEST_READ = 4_000
"""Characters of an answer that are looked at: enough for a title, and for what is shown."""
_ACCOUNT = re.compile(r"credit|billing|organi[sz]ation|workspace|usage limit", re.IGNORECASE)
"""Refusals with the same status that are not about the payload."""
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
    """Return the HTTP status behind an error of the SDK's; None if no answer came."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def message_of(error: BaseException) -> str:
    """Return the API's own words, without credentials, and without the pages that proxies send."""
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return show_body(str(message or error))


def show_body(text: str) -> str:
    """Return what fits into a message of an answer's text, without credentials."""
    start = text[:_LONGEST_READ].lstrip("\ufeff \t\r\n")
    if _HTML.match(start):
        title = _TITLE.search(start)
        words = " ".join(without_secrets(html.unescape(title[1])).split()) if title else ""
        return f'an HTML page titled "{words[:_LONGEST_TITLE]}"' if words else "an HTML page"
    shown = without_secrets(text[:_LONGEST_READ])
    if len(text) <= _LONGEST_READ and len(shown) <= _LONGEST_TEXT:
        return shown
    return f"{shown[:_LONGEST_TEXT]}... ({len(text):,} characters)"


def without_secrets(text: str) -> str:
    """Black out anything that looks like a credential, and the account in ARNs of AWS."""
    text = _NAMED.sub(r"\g<name>[key]", text)
    return mask_account(_SECRET.sub("[key]", text))


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, in any of the forms that the SDK knows."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        stated = headers.get(name, "")
        with suppress(ValueError):
            seconds = float(stated) / scale
            return None if math.isnan(seconds) else max(0.0, seconds)
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    return None


def show_seconds(seconds: float) -> str:
    """Write a pause, however long.

    Example:
        >>> show_seconds(0.5), show_seconds(99_999_999)
        ('0.5', '99,999,999')
    """
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:g}"


def explain_failure(error: BaseException, *, model: str, host: str, seconds: float) -> CountError:
    """Explain why counting failed and what would help; `seconds` is what a count may take."""
    status, said = status_of(error), message_of(error)
    if status == 400:
        return explain_refusal(said, model)
    if status is not None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        pause = pause_of(headers) if headers else None
        remedy = _REMEDIES.get(status) or _REMEDIES[529]
        if pause is not None and pause > seconds:
            remedy += f". A count waits for {seconds:g} s at most (--llmcost-count-timeout)"
        after = f" (retry after {show_seconds(pause)} s)" if pause is not None else ""
        return CountError(
            f"counting {model} failed with status {status}{after}: {said}; {remedy}",
            status=status,
            may_pass=status in (408, 409, 429) or status >= 500,
        )
    if isinstance(error, TypeError) and "authentication" in str(error):
        return CountError(f"no credentials to count {model} with: {_REMEDIES[401]}")
    if "Bedrock" in str(error):
        return CountError(
            "the Bedrock client of the SDK cannot count tokens; counting is free on Anthropic's "
            f"own API: {_OVERRIDE} to return anthropic.Anthropic(), or "
            "anthropic.AnthropicBedrockMantle() to stay on AWS"
        )
    if type(error).__name__ in ("APITimeoutError", "APIConnectionError"):
        cause = error.__cause__  # the causes below say the same in other words
        why = f"{type(cause).__name__}: {show_body(str(cause))}" if cause else type(error).__name__
        return CountError(
            f"no answer from {host} while counting ({why}); check the network, "
            "ANTHROPIC_BASE_URL and the proxy settings, then run again",
            may_pass=True,
        )
    return CountError(f"counting {model} failed: {type(error).__name__}: {said}")


def explain_refusal(said: str, model: str) -> CountError:
    """Explain that a payload is refused, now or when it was recorded (400)."""
    return CountError(
        f"the API refused to count this payload for {model} (400): {show_body(said)}. "
        "`messages.create` would most likely refuse it as well; correct the payload",
        status=400,
        refusal=None if _ACCOUNT.search(said) else said,
    )


def explain_block(reason: str, host: str) -> CountError:
    """Explain that a plugin forbids connections."""
    return CountError(
        f"counting needs a connection to {host}, and this test forbids connections "
        f"({show_body(reason)}); "
        "allow that host (block_network(allowed_hosts=...), --allow-hosts), or run without "
        "recording counts"
    )
