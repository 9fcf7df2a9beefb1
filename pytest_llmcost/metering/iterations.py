"""Iterations: which sampling passes a response was made of, and which of them are paid for.

Data flow: `usage.iterations` and the content blocks -> `Passes` -> legs.

Source: https://platform.claude.com/docs/en/build-with-claude/compaction, .../advisor-tool and
.../refusals-and-fallback, read 2026-08-22: message passes are inside the top level, compaction
and advisor passes are not, a declined attempt is not either and may be billed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.metering.contents import Fallback
from pytest_llmcost.metering.usagedata import list_at, read_usage, text_at
from pytest_llmcost.pricing.usage import Leg, Usage

UNSPECIFIED = "unspecified"
"""The category of a refusal that states none."""
_SAMPLING = ("message", "fallback_message")
_KINDS = (*_SAMPLING, "compaction", "advisor_message")


class Pass(NamedTuple):
    """One entry of `usage.iterations`."""

    kind: str
    model: str | None
    usage: Usage


def read_passes(usage: Mapping[str, object]) -> list[Pass]:
    """Read all entries; their kinds are checked by who uses them."""
    passes = []
    for index, entry in enumerate(list_at(usage, "iterations", "usage")):
        path = f"usage.iterations[{index}]"
        if not isinstance(entry, Mapping):
            raise UsageDataError(f"{path}: expected an object, got {entry!r:.80}", path=path)
        kind = text_at(entry, "type") or "message"
        passes.append(Pass(kind, text_at(entry, "model"), read_usage(entry, path=path)))
    return passes


def unknown_kinds(passes: Sequence[Pass]) -> list[str]:
    """Name the kinds of entries that no rule is known for."""
    return sorted({f"iterations of type {each.kind}" for each in passes if each.kind not in _KINDS})


def serving_model(passes: Sequence[Pass], fallbacks: Sequence[Fallback]) -> str | None:
    """Return the model that a fallback left the answer to; nothing where there was none.

    A stream's `message_start` still names the model that declined.
    """
    entries = [each.model for each in passes if each.kind == "fallback_message" and each.model]
    blocks = [each.serving for each in fallbacks if each.serving]
    models = entries or blocks
    return models[-1] if models else None


def split_passes(passes: Sequence[Pass]) -> tuple[list[Pass], list[Pass]]:
    """Return the sampling passes that were declined and those that served.

    Without a fallback all of them served; with one, those from the last fallback's model on.
    """
    sampling = [each for each in passes if each.kind in _SAMPLING]
    fallbacks = [index for index, each in enumerate(sampling) if each.kind == "fallback_message"]
    if not fallbacks:
        return [], sampling
    start = fallbacks[-1]
    while start - 1 in fallbacks and sampling[start - 1].model == sampling[start].model:
        start -= 1
    return sampling[:start], sampling[start:]


def message_legs(top: Usage, served: Sequence[Pass], *, model: str, looped: bool) -> list[Leg]:
    """Return the legs of the answer itself: one a sampling pass where these explain the top level.

    Each pass has a length band of its own. An all-zero top level, as after a compaction on
    demand, says nothing, and the passes are the bill.
    """
    searches = Usage(web_search_requests=top.web_search_requests)
    explained = sum((each.usage for each in served), searches) == top
    if served and (explained or top == searches):
        first = Leg(model=model, usage=served[0].usage + searches)
        return [first, *(Leg(model=model, usage=each.usage) for each in served[1:])]
    return [Leg(model=model, usage=top, sums_calls=bool(served) or looped)]


def added_legs(passes: Sequence[Pass], *, requested: str) -> list[Leg]:
    """Return the legs that come on top: compactions at the request's model, advisors at theirs."""
    legs = []
    for index, each in enumerate(passes):
        if each.kind == "compaction":
            legs.append(Leg(kind="compaction", model=each.model or requested, usage=each.usage))
        elif each.kind == "advisor_message":
            if each.model is None:
                path = f"usage.iterations[{index}].model"
                raise UsageDataError(
                    f"{path}: expected the advisor's model, got nothing", path=path
                )
            legs.append(Leg(kind="advisor", model=each.model, usage=each.usage))
    return legs


def declined_legs(
    declined: Sequence[Pass], fallbacks: Sequence[Fallback], *, requested: str
) -> list[Leg]:
    """Return the legs of declined attempts; one without usage where only the content tells of it.

    An attempt is paired with the change of model that names it; what it had said by then tells
    whether it was refused before any output.
    """
    legs = []
    left = list(fallbacks)
    for each in declined:
        change = next((f for f in left if each.model in (None, f.declined)), None)
        if change is not None:
            left.remove(change)
        model = each.model or (change.declined if change else None) or requested
        legs.append(_declined(model, each.usage, change))
    legs += [_declined(change.declined or requested, Usage(), change) for change in left]
    return legs


def _declined(model: str, usage: Usage, change: Fallback | None) -> Leg:
    category = (change.category if change else None) or UNSPECIFIED
    refusal = None if change and change.spoke else category
    return Leg(kind="declined", model=model, usage=usage, refusal=refusal)
