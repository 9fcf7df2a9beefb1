"""Refusals and failures of counting: what is left out of a count after a refusal, or what to do.

Everything is read from attributes and class names: nothing here imports the SDK. No message ever
holds a credential, whatever the SDK, the API or the HTTP library put into theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pytest_llmcost.counting.own_requests import pause_of
from pytest_llmcost.counting.payload import KNOWN, as_list
from pytest_llmcost.credentials import without_keys
from pytest_llmcost.errors import HIDDEN, CountError
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.usage import tool_name

_PAGE = re.compile(r"\s*<(?:!|html|head|body)", re.IGNORECASE)
"""How a page begins that a proxy sends."""
_LONGEST_TEXT = 500
_LONGEST_READ = 4_000
"""Characters of an answer that are looked at."""


def without_secrets(text: str) -> str:
    """Black out anything that looks like a credential, and the account in ARNs of AWS."""
    return mask_account(without_keys(text))


def show_body(text: str) -> str:
    """Return what fits into a message of an answer's text, without credentials."""
    if _PAGE.match(text):
        return f"an HTML page of {len(text):,} characters"
    shown = without_secrets(text[:_LONGEST_READ])
    if len(text) <= _LONGEST_READ and len(shown) <= _LONGEST_TEXT:
        return shown
    return f"{shown[:_LONGEST_TEXT]}... ({len(text):,} characters)"


def message_of(error: BaseException) -> str:
    """Return the API's own words, without credentials."""
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return show_body(str(message or error))


# What count_tokens refuses although messages.create takes it

_REFUSING = re.compile(
    r"not (?:yet |currently )?(?:supported|permitted|allowed|available|accepted)|unsupported"
    r"|does not match any of the expected tags|unexpected value",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?P<path>[A-Za-z_]+(?:\.\w+)*)\s*:")
_NEEDED = frozenset({"messages", "model", "system", "tools"})
_OF_SERVER_TOOLS = ("_tool_result", "server_tool_use", "mcp_tool_use", "container_upload")


def leave_out(
    body: Mapping[str, JsonValue], message: str
) -> tuple[dict[str, JsonValue], str] | None:
    """Return a body without the part that a refusal (400) names, and which part that is.

    None unless `create` would take it.
    Such parts are tools that run on the server, optional keys of the body, and blocks whose
    source is fetched by the server or that belong to a server tool. Anything else stays: `create`
    would refuse a custom tool with a broken schema as well, and the user is to read why.

    Example:
        >>> tools = [{"type": "web_search_20250305", "name": "web_search"}]
        >>> said = "Server tools are not supported in count_tokens: web_search_20250305."
        >>> leave_out({"messages": [], "tools": tools}, said)
        ({'messages': []}, 'tools.web_search')
    """
    match = _PATH.match(message)
    path = match["path"].split(".") if match else []
    if path[:1] == ["messages"]:
        return _without_block(body, path, message)
    if not _REFUSING.search(message):
        return None
    tools = as_list(body.get("tools"))
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") in (None, "", "custom"):
            continue  # the caller's own schema
        named = re.search(rf"(?<!\w){re.escape(tool['type'])}\b", message)
        if named or path[:2] == ["tools", str(index)]:
            kept = [*tools[:index], *tools[index + 1 :]]
            trimmed = {**body, "tools": kept}
            # A choice among tools goes with the tool that it names, or with the last one.
            chosen = (body.get("tool_choice") or {}).get("name")
            if not kept or (chosen and chosen not in [each.get("name") for each in kept]):
                trimmed.pop("tool_choice", None)
            if not kept:
                del trimmed["tools"]
            return trimmed, f"tools.{tool_name(tool, index)}"
    key = path[0] if path[:1] == ["mcp_servers"] or len(path) == 1 else None
    if key in body.keys() - _NEEDED:
        return {name: body[name] for name in body if name != key}, str(key)
    return None


def _without_block(
    body: Mapping[str, JsonValue], path: list[str], message: str
) -> tuple[dict[str, JsonValue], str] | None:
    """Take out the block at `messages.I.content.J`."""
    try:
        turn_at, block_at = int(path[1]), int(path[3])
        turn = body["messages"][turn_at]
        content = turn[path[2]]
        kind, source = content[block_at]["type"], content[block_at].get("source") or {}
        is_fetched = source.get("type") in ("url", "file")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None  # it names a place that the payload does not have
    if is_fetched and _REFUSING.search(message):
        kind = f"{kind} from {source['type']}"
    elif not kind.endswith(_OF_SERVER_TOOLS):
        return None
    # A text of one token, less than anything it replaces, keeps a turn from being empty.
    kept = [*content[:block_at], *content[block_at + 1 :]] or [{"type": "text", "text": "."}]
    messages: list[Any] = list(body["messages"])
    messages[turn_at] = {**turn, "content": kept}
    return {**body, "messages": messages}, f"messages.{turn_at}.content.{block_at} ({kind})"


# What went wrong, and what would help

_OVERRIDE = "override the fixture llmcost_client"
_REMEDIES = {
    401: "set ANTHROPIC_API_KEY to a valid key",
    402: "see the organisation's billing settings",
    403: "use a key that may call this model",
    404: "check the model id, and ANTHROPIC_BASE_URL if it is set",
    413: "send a smaller payload: the application could not send this one either",
    429: "wait, then run again: what has been counted so far is kept",
}
_RUN_LATER = "run again later: what has been counted so far is kept"
ELSEWHERE = (
    "it may not be the Messages API: check ANTHROPIC_BASE_URL, or what the client is made with"
)
_ACCOUNT = re.compile(
    r"credit|billing|organi[sz]ation|\borg\b|workspace|usage limit", re.IGNORECASE
)
"""Refusals with the same status that are not about the payload."""
_BEGINNING = re.compile(
    r"(?:(?P<key>[a-z_]+)(?:\.\w+)*|prompt is too long)(?=:)"
    r"(?P<numbers>: [\d,]+(?: tokens)? > [\d,]*\d)?"
)
"""How a refusal begins that says where in the payload it is, or how many tokens are too many."""


def explain_failure(
    error: BaseException, *, model: str, host: str, seconds: float, in_tests: bool = True
) -> CountError:
    """Explain why counting failed and what would help; `seconds` is what a count may take."""
    remedies = dict(_REMEDIES)
    for each in (401, 403, 404) if in_tests else ():  # of another client
        remedies[each] += f", or {_OVERRIDE}"
    status, said = getattr(error, "status_code", None), message_of(error)
    if status == 400:
        return explain_refusal(said, model)
    if isinstance(status, int):
        headers = getattr(getattr(error, "response", None), "headers", None)
        pause = pause_of(headers) if headers else None
        is_busy = status in (408, 409) or status >= 500
        remedy = remedies.get(status, _RUN_LATER if is_busy else ELSEWHERE)
        if pause is not None and pause > seconds:
            remedy += f". A count waits for {seconds:g} s at most (--llmcost-count-timeout)"
        after = f" (retry after {pause:,.9g} s)" if pause is not None else ""
        return CountError(
            f"counting {model} failed with status {status}{after}: {said}; {remedy}",
            status=status,
            foreign=(said,),
        )
    if isinstance(error, TypeError) and "authentication" in str(error):
        return CountError(f"no credentials to count {model} with; {remedies[401]}")
    if "Bedrock" in str(error):
        return CountError(
            "the Bedrock client of the SDK cannot count tokens; counting is free on Anthropic's "
            f"own API: {_OVERRIDE} to return anthropic.Anthropic(), or "
            "anthropic.AnthropicBedrockMantle() to stay on AWS"
        )
    if type(error).__name__ in ("APITimeoutError", "APIConnectionError"):
        cause = error.__cause__  # the causes below say the same in other words
        if "Illegal header" in str(cause):  # of httpx, which quotes it; it may be any secret
            return CountError(
                f"cannot count {model}: the key, or another header of the client, holds a line "
                "break or begins or ends with a space; remove it from ANTHROPIC_API_KEY"
            )
        why = f"{type(cause).__name__}: {show_body(str(cause))}" if cause else type(error).__name__
        return CountError(
            f"no answer from {host} while counting ({why}); check the network, "
            "ANTHROPIC_BASE_URL and the proxy settings, then run again",
            foreign=(why, host),
        )
    return CountError(f"counting {model} failed: {type(error).__name__}: {said}", foreign=(said,))


def explain_refusal(said: str, model: str) -> CountError:
    """Explain that a payload is refused, now or when it was recorded (400)."""
    shown, kept = show_body(said), refusal_for_files(said)
    return CountError(
        f"the API refused to count this payload for {model} (400): {shown}. "
        "`messages.create` would most likely refuse it as well; correct the payload",
        status=400,
        refusal=None if _ACCOUNT.search(said) else kept,
        foreign=(shown.removeprefix(kept.removesuffix(HIDDEN)),),
    )


def refusal_for_files(said: str) -> str:
    """Return what files hold of a refusal: its place in the payload, and numbers of tokens.

    The rest may quote the prompt.

    Example:
        >>> refusal_for_files("max_tokens: 64000 > 32000, which is the maximum")
        'max_tokens: 64000 > 32000'
        >>> refusal_for_files("messages.0.content: 'my text' is not valid")
        'messages.0.content: [...]'
    """
    match = _BEGINNING.match(said)
    if match is None or (match["key"] and match["key"] not in KNOWN):
        return HIDDEN
    return match[0] if match["numbers"] else f"{match[0]}: {HIDDEN}"
