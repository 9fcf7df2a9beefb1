"""requests: replies of mocks such as `responses` and `requests-mock`, which replace its adapters.

What an adapter of requests' own has sent passes urllib3, and is captured there. Both kinds make the
response in the same method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.transports import CURRENT, begin_light, wrap_method
from pytest_llmcost.capture.transports.urllib3 import is_followed, tee

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest


def wrap(module: ModuleType) -> None:
    """Wrap how an adapter makes a response of urllib3's."""
    wrap_method(getattr(module, "HTTPAdapter", None), "build_response", _wrap_build_response)


def _wrap_build_response(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def build_response(adapter: Any, request: Any, raw: Any) -> Any:
        __tracebackhide__ = True
        if not is_followed(raw) and CURRENT.get() is None:
            captured = begin_light(
                request,
                client=adapter,
                method=request.method,
                url=str(request.url),
                headers=request.headers,
                body=request.body,
            )
            if captured is not None:
                captured.do(_answered, raw)
        return original(adapter, request, raw)

    return build_response


def _answered(captured: CapturedRequest, raw: Any) -> None:
    captured.answered(status=raw.status, live=False, headers=raw.headers)
    tee(captured, raw)
