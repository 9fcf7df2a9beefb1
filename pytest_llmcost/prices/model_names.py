"""Model names as Anthropic, its clouds and its users spell them; only exact names resolve.

Knows no card; a card hands in the spellings of its models.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from pytest_llmcost.prices.usage import Platform

_AWS_ACCOUNT = re.compile(
    r"(arn{0}aws[\w-]*{0}[\w-]*{0}[\w-]*{0})\d{{12}}(?!\d)".format("(?::|%3A)"), re.IGNORECASE
)
_LONG_CONTEXT = re.compile(r"\[1m\]$", re.IGNORECASE)
_BEDROCK_ARN = re.compile(
    r"arn:(?P<partition>[^:]*):bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(?P<id>.+)"
)


class Resolved(NamedTuple):
    """A model's exact id, and what its spelling says of the endpoint."""

    model: str
    platform: Platform | None = None
    """The cloud whose spelling it is; nothing for Anthropic's own ids and aliases."""


@functools.lru_cache(maxsize=256)
def mask_account(text: str) -> str:
    """Replace the account id in every ARN of AWS: ledgers and messages are shared.

    Example:
        >>> mask_account("arn:aws:bedrock:eu-west-1:123456789012:inference-profile/abc")
        'arn:aws:bedrock:eu-west-1:ACCOUNT:inference-profile/abc'
    """
    return _AWS_ACCOUNT.sub(r"\1ACCOUNT", text)


def find_model(spellings: Mapping[str, Resolved], name: str) -> Resolved | None:
    """Return the model that a name stands for, also in another form, or None.

    `[1m]` at the end, ARNs of Bedrock's own inference profiles and percent signs of a URL are
    understood. A prefix or a part of a known name is not: `claude-fable-5` and `claude-fable-5-1`
    have different rates. A card holds ARNs without their account id.

    Source: https://platform.claude.com/docs/en/about-claude/models/model-ids-and-versions
    and Bedrock's list of inference profiles, read 2026-11-22.
    """
    if known := spellings.get(name):
        return known
    plain = mask_account(_LONG_CONTEXT.sub("", unquote(name.strip())))
    arn = _BEDROCK_ARN.fullmatch(plain)
    found = spellings.get(arn["id"] if arn else plain)
    if found and arn and arn["partition"] == "aws-us-gov":
        return found._replace(platform="bedrock-gov")
    return found


def likely_model(spellings: Mapping[str, Resolved], name: str) -> str | None:
    """Return the id that an unknown name misspells, or None.

    With other digits it is another model.
    """
    if find_model(spellings, name):
        return None

    def digits(text: str) -> str:
        return "".join(filter(str.isdigit, text))

    close = difflib.get_close_matches(name, spellings, n=len(spellings), cutoff=0.8)
    return next((spellings[each].model for each in close if digits(each) == digits(name)), None)
