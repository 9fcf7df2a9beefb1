"""Tell when a module has been imported, without importing it.

Knows nothing of what is done with the module; `transports/` has the table.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Callback = Callable[[ModuleType], object]
"""Takes a module, perhaps again and again. Returns False while the module lacks what it is needed
for, as a module that is only half imported does; then it is called again later."""


class ImportWatcher(MetaPathFinder):
    """Meta-path finder that delegates to the others and calls back after a module has run."""

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        """Watch for these modules by their full names."""
        self._callbacks = callbacks
        self.incomplete: set[str] = set()
        """The modules that were half imported at the last look."""
        self._searching: set[tuple[int, str]] = set()
        """Thread and module of each search: another finder may search through us in turn."""

    def install(self) -> None:
        """Call back for each module that is imported already, and for the others as they are."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._look_at(self._callbacks)

    def remove(self) -> None:
        """Stop watching."""
        self.incomplete.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def look_again(self) -> None:
        """Call back for the modules that were half imported, if they are complete by now.

        `vcr.cassette` imports httpx2, whose callback finds VCR half imported. Nothing announces the
        end of such an import.
        """
        self._look_at(self.incomplete)

    def _look_at(self, names: Iterable[str]) -> None:
        for name in [*names]:
            module = sys.modules.get(name)
            if module is not None and self._callbacks[name](module) is False:
                self.incomplete.add(name)
            else:
                self.incomplete.discard(name)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
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
                            spec.loader = _Loader(spec.loader, self._callbacks[fullname])
                        return spec
        finally:
            self._searching.discard(search)
        return None


class _Loader(Loader):
    """Stands in for a loader until the module is executed, and then puts the real one back."""

    def __init__(self, loader: Loader, callback: Callback) -> None:
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._callback(module)
