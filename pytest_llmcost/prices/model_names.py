"""Model names as Anthropic, its clouds and its users spell them; only exact names resolve.

Data flow: a name from a request, a response or a URL -> `Names.find` -> Resolved, or nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

from pytest_llmcost.aws_arn import mask_account
from pytest_llmcost.prices.price_file import CardFile, ModelEntry
from pytest_llmcost.prices.usage import Platform

_LONG_CONTEXT = re.compile(r"\[1m\]$", re.IGNORECASE)
_BEDROCK_ARN = re.compile(
    r"arn:(?P<partition>[^:]*):bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(?P<id>.+)"
)

_VERSION = re.compile(r"-(\d{1,2})-(\d{1,2})(?!\d)")
_MOST_SHOWN = 200
"""Characters of a name; longer than any."""


class Resolved(NamedTuple):
    """A model's exact id, and what its spelling tells about the endpoint."""

    model: str
    platform: Platform | None = None
    """The cloud whose spelling it is; nothing for Anthropic's own ids and aliases."""

    @property
    def regional(self) -> bool | None:
        """Whether the spelling says a regional endpoint; None where it does not say."""
        if self.platform in ("bedrock", "bedrock-regional", "bedrock-gov"):
            return self.platform != "bedrock"
        return None


def show_name(name: str) -> str:
    r"""Write a foreign name for people: no account id, nothing invisible, nothing endless.

    Example:
        >>> show_name("claude\x1b[31m")
        'claude\\x1b[31m'
    """
    name = mask_account(name)
    shown = name[:_MOST_SHOWN]
    if not shown.isprintable():
        shown = "".join(map(_show, shown))
    return shown if len(name) <= _MOST_SHOWN else f"{shown}..."


def _show(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


class Names:
    """Every spelling of every model of a card, from memory once built."""

    def __init__(self, card: CardFile) -> None:
        self._index = dict(_spellings(card))

    def find(self, name: str) -> Resolved | None:
        """Return the model that a name stands for; nothing for any other name.

        `[1m]` at the end, ARNs of Bedrock's own inference profiles and percent signs of a
        URL are understood, and so are Google Cloud's `name@default` and the `anthropic/name` of
        gateways (OpenRouter's also with a point, `anthropic/claude-sonnet-5.5`). A prefix or a
        part of a known name is not. A card holds ARNs without their account id.

        Source: https://platform.claude.com/docs/en/about-claude/models/model-ids-and-versions
        and Bedrock's list of inference profiles, read 2026-11-22; public configurations of
        Google Cloud tools and gateways, read 2026-11-25.
        """
        if name in self._index:
            return self._index[name]
        plain = mask_account(_LONG_CONTEXT.sub("", unquote(name.strip())))
        arn = _BEDROCK_ARN.fullmatch(plain)
        found = self._index.get(arn["id"] if arn else plain)
        if found and arn and arn["partition"] == "aws-us-gov":
            return found._replace(platform="bedrock-gov")
        return found

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """Return the known ids most like a name, the most alike first."""
        close = difflib.get_close_matches(name, self._index, n=len(self._index), cutoff=0)
        models = dict.fromkeys(self._index[spelling].model for spelling in close)
        return tuple(models)[:count]


def _spellings(card: CardFile) -> Iterator[tuple[str, Resolved]]:
    """Yield what each name stands for; a later one of the same name wins."""
    for model, entry in card.models.items():
        yield from _cloud_spellings(model, entry, card)
        yield from _gateway_spellings(model, entry)
    for model, entry in card.models.items():
        yield from ((alias, Resolved(model)) for alias in entry.aliases)
    for model in card.models:  # an id is never an alias of something else
        yield model, Resolved(model)


def _cloud_spellings(
    model: str, entry: ModelEntry, card: CardFile
) -> Iterator[tuple[str, Resolved]]:
    at_google = entry.vertex or model
    yield f"{at_google.partition('@')[0]}@default", Resolved(model, "vertex-unknown")
    if entry.vertex is not None:
        yield entry.vertex, Resolved(model, "vertex-unknown")
    if entry.bedrock is not None:
        yield entry.bedrock, Resolved(model, "bedrock-regional")
        for prefix in card.bedrock_prefixes:
            yield f"{prefix}.{entry.bedrock}", Resolved(model, "bedrock-regional")
        yield f"{card.bedrock_global_prefix}.{entry.bedrock}", Resolved(model, "bedrock")
        if card.bedrock_gov_prefix is not None:
            yield f"{card.bedrock_gov_prefix}.{entry.bedrock}", Resolved(model, "bedrock-gov")


def _gateway_spellings(model: str, entry: ModelEntry) -> Iterator[tuple[str, Resolved]]:
    for name in (model, *entry.aliases):
        if name.startswith("claude-"):
            yield f"anthropic/{name}", Resolved(model)
            yield "anthropic/" + _VERSION.sub(r"-\1.\2", name), Resolved(model)
