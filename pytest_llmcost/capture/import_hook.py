"""Tell when a module has been imported, without importing it.

Knows nothing of what is done with the module; `transports/` has the table.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

Callback = Callable[[ModuleType], object]


class ImportWatcher:
    """Meta-path finder that delegates to the others and calls back after a module has run."""

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self._callbacks = callbacks
        self._searching: set[tuple[int, str]] = set()
        """Thread and module of each search: another finder may search through us in turn."""

    def install(self) -> None:
        """Call back for each module that is imported already, and for the others when they are."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name, callback in self._callbacks.items():
            if sys.modules.get(name) is not None:
                callback(sys.modules[name])

    def remove(self) -> None:
        """Stop watching."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module through the other finders, with a loader that calls back."""
        search = (threading.get_ident(), fullname)
        if fullname not in self._callbacks or search in self._searching:
            return None
        self._searching.add(search)
        try:
            for finder in sys.meta_path:
                if finder is not self and hasattr(finder, "find_spec"):
                    spec = finder.find_spec(fullname, path, target)
                    if spec is not None:
                        if spec.loader is not None:
                            loader = _Loader(spec.loader, self._callbacks[fullname])
                            spec.loader = cast("Loader", loader)
                        return spec
        finally:
            self._searching.discard(search)
        return None


class _Loader:
    """Stands in for a loader until the module is executed, and then puts the real one back."""

    def __init__(self, loader: Loader, callback: Callback) -> None:
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._callback(module)
