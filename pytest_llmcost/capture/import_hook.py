"""ImportWatcher: tells when a module has been imported, without importing it.

Data flow: `import httpx` somewhere -> the module is executed -> our callback gets it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Notice = Callable[[ModuleType], object]
"""Gets a module; returns False where the module lacks what the notice is for, as one does that is
only half imported: then it is called again until it does not. Else it may be called again, too."""


class ImportWatcher(MetaPathFinder):
    """A finder that finds nothing itself: it lets the others find, and listens."""

    def __init__(self, notices: Mapping[str, Notice]) -> None:
        """Watch for these modules by their full names."""
        self._notices = notices
        self.incomplete: set[str] = set()
        """What had been imported in part when we looked."""
        self._asking: set[tuple[int, str]] = set()
        """Thread and module we are asking the others for, one of whom may ask us in turn."""

    def install(self) -> None:
        """Notice what is imported from now on, and at once what has been already."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._look_at(self._notices)

    def look_again(self) -> None:
        """Notice what was incomplete, if it is complete by now.

        A module may be half imported when we come, and import what makes us come: `vcr.cassette`
        imports httpx2. Nobody tells us of its end.
        """
        self._look_at(self.incomplete)

    def _look_at(self, names: Iterable[str]) -> None:
        for name in [*names]:
            module = sys.modules.get(name)
            if module is not None and self._notices[name](module) is False:
                self.incomplete.add(name)
            else:
                self.incomplete.discard(name)

    def remove(self) -> None:
        """Stop listening."""
        self.incomplete.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a watched module through the other finders, with a loader that listens."""
        notice = self._notices.get(fullname)
        asking = (threading.get_ident(), fullname)
        if notice is None or asking in self._asking:
            return None
        self._asking.add(asking)
        try:
            spec = self._find_elsewhere(fullname, path, target)
        finally:
            self._asking.discard(asking)
        if spec is not None and spec.loader is not None:
            spec.loader = _Listening(spec.loader, notice)
        return spec

    def _find_elsewhere(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _Listening(Loader):
    """Stands in for a loader until its module is executed, and then puts it back."""

    def __init__(self, loader: Loader, notice: Notice) -> None:
        self._loader = loader
        self._notice = notice

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._notice(module)
