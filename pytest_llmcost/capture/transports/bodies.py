"""Bodies that are read by methods of a response, as those of `http.client` and urllib3 are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def tee_of(kind: Any, names: tuple[str, ...], how_ended: Callable[..., bool | None]) -> Any:
    """Return a class for a response whose bytes are read along; so the response stays what it is.

    What the named methods return, or fill in, is fed to its `_llmcost`. `how_ended` takes the
    response and what was returned: whether the body is whole, or None if more is to come.
    """

    def along(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(response: Any, *args: Any, **how: Any) -> Any:
            # None meanwhile: some ways of reading use one another.
            captured, response._llmcost = response._llmcost, None
            try:
                data = original(response, *args, **how)
            except BaseException:
                if captured is not None:
                    captured.close(is_whole=False)
                raise
            finally:
                response._llmcost = captured
            if captured is not None:
                if data:
                    taken = memoryview(args[0]).cast("B")[:data] if isinstance(data, int) else data
                    captured.feed(bytes(taken))
                is_whole = how_ended(response, data)
                if is_whole is not None:
                    captured.close(is_whole=is_whole)
            return data

        return read

    class Tee(kind):  # type: ignore[misc]
        _llmcost: Any

        def close(self) -> None:
            try:
                super().close()
            finally:
                if self._llmcost is not None:
                    self._llmcost.close(is_whole=False)

    for name in names:
        setattr(Tee, name, along(getattr(kind, name)))
    functools.update_wrapper(Tee, kind, updated=())
    return Tee
