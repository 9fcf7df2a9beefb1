"""Every error the package raises on purpose.

    LlmCostError
     ├─ SettingsError        a bad option, marker, ini value or amount
     ├─ PriceError
     │   ├─ UnknownModelError    no price for this model on this date
     │   └─ RateCardError        a bad price file: path, model, key, value
     ├─ PayloadError         a payload that is not JSON: the path inside it
     ├─ UsageDataError       a response we cannot read: dotted path, expected, got
     ├─ RecordingError       a recorded file we cannot read: file and place
     ├─ CountError           counting impossible, refused, or not recorded
     │   ├─ CountMissingError    this payload's count is not recorded: what changed, and the command
     │   └─ CountCassetteError   a damaged or foreign count cassette: file and place
     ├─ LedgerError          an unreadable or newer ledger, or conflicting shards
     └─ ReconcileError       the bill could not be fetched or compared

    LiveCapError           a request that does not fit under the cap on live spend; not sent

A budget that is exceeded is no error but a `Verdict`. Only `plugin/` and `cli/` translate these
into exit statuses and test failures. This module loads nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

HIDDEN = "[...]"
"""In a file, for what only the terminal shows."""


class LlmCostError(Exception):
    """Base of all; its text is complete and needs no traceback to be understood."""


class SettingsError(LlmCostError):
    """An option, marker, environment variable, ini value or amount that makes no sense."""


class PriceError(LlmCostError):
    """Something cannot be priced."""


class UnknownModelError(PriceError, LookupError):
    """No price for this model on this date; never taken for $0."""


class RateCardError(PriceError):
    """A price file that does not hold what it should; names file, model, key and value."""


class _PathError(LlmCostError):
    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class PayloadError(_PathError):
    """A payload that is not JSON; `path` says where inside it."""


class UsageDataError(_PathError):
    """A response's usage that does not have the documented shape; `path` says where."""


class RecordingError(LlmCostError):
    """A recorded file that cannot be read; names the file and the place."""


class CountError(LlmCostError):
    """A payload's tokens could not be counted; the text says what would help."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        refusal: str | None = None,
        foreign: tuple[str, ...] = (),
    ) -> None:
        """Keep the HTTP status where there is one.

        `foreign` are the pieces of the message that others said, and the host: they may name an
        organisation, or quote a prompt.
        """
        super().__init__(message)
        self.for_files = message
        """The message without them: of all that outlives a run, only this may be written."""
        for piece in filter(None, foreign):
            self.for_files = self.for_files.replace(piece, HIDDEN)
        self.status = status
        self.refusal = refusal
        """What the API refused about this payload for this model, as files may hold it."""


class CountMissingError(CountError):
    """No count of exactly this payload is recorded, and recording one was not asked for."""

    def __init__(
        self,
        message: str,
        *,
        changed: tuple[str, ...] = (),
        command: str,
        before: int | None = None,
        empty: str = "",
        what: str = "a prompt is",
        suspicious: str = "",
    ) -> None:
        """Keep what differs from the nearest recorded payload, and the remedy.

        `before` is the number of tokens that were counted before the payload changed; `empty` says
        where counts were looked for, if there are none at all; `what` is what is not counted, with
        its verb; `suspicious` names what may differ in every run.
        """
        super().__init__(message)
        self.changed = changed
        self.command = command
        self.before = before
        self.empty = empty
        self.what = what
        self.suspicious = suspicious


class CountCassetteError(CountError):
    """A count cassette that is damaged, not ours or not writable; the file is left as it was."""

    def __init__(self, message: str) -> None:
        """Keep the path, and what the file holds, out of files."""
        super().__init__(message)
        self.for_files = "the count cassette cannot be read or written; see the terminal"


class LedgerError(LlmCostError):
    """A ledger file that cannot be read or merged; names the file and the reason."""


class ReconcileError(LlmCostError):
    """The organisation's usage or cost could not be fetched or compared."""


if TYPE_CHECKING:
    _Outcome = BaseException
else:  # private, and the one class that pytest lets end a set-up or a teardown beside `Exception`
    _Outcome = getattr(sys.modules.get("_pytest.outcomes"), "OutcomeException", BaseException)


class LiveCapError(_Outcome):
    """A request that was refused before it left: its worst case exceeds what is left of the cap.

    No `Exception`, as pytest's own outcomes are none: the SDK would try it again, with pauses, and
    then say no more than "Connection error".
    """
