"""ARNs of AWS: names of models that hold the id of an account, which no file of ours may hold."""

from __future__ import annotations

import re

_AWS_ACCOUNT = re.compile(
    r"(arn{0}aws[\w-]*{0}[\w-]*{0}[\w-]*{0})\d{{12}}(?!\d)".format("(?::|%3A)"), re.IGNORECASE
)


def mask_account(text: str) -> str:
    """Replace the account id in every ARN of AWS: ledgers and messages are shared.

    Example:
        >>> mask_account("arn:aws:bedrock:eu-west-1:123456789012:inference-profile/abc")
        'arn:aws:bedrock:eu-west-1:ACCOUNT:inference-profile/abc'
    """
    return _AWS_ACCOUNT.sub(r"\1ACCOUNT", text)
