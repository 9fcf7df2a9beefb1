"""Token counts of a session: the count cassette and the mode of each owner that counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from pytest_llmcost.counting.cassette import Count, CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job, Mode
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountCassetteError
from pytest_llmcost.plugin.commands import count_target
from pytest_llmcost.plugin.owners import Owner, SharedFixture, TestAttempt
from pytest_llmcost.plugin.progress import show_waiting
from pytest_llmcost.plugin.pytest_recording import cassette_path, fixture_cassette_path, record_mode
from pytest_llmcost.settings import Settings


class _Source(NamedTuple):
    """Where the counts of one owner come from and go to."""

    cassette: CountCassette
    mode: Mode
    asker: Asker


class Counts:
    """The counter, and the count cassettes that are open."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        make_client: Callable[[], object],
        notes: set[str],
    ) -> None:
        """Open nothing yet: neither client nor cassette."""
        self._config = config
        self._settings = settings
        self._notes = notes
        self._sources: dict[Owner, _Source] = {}
        self._asked: dict[str, set[str]] = {}
        """Fingerprints by the asker's name, over all attempts of a test or set-ups of a fixture."""
        self._new_askers: set[str] = set()
        self.counter = Counter(
            make_client, seconds=settings.count_timeout, waiting=partial(show_waiting, config)
        )

    def count(self, owner: Owner, payload: Payload) -> Count:
        """Count a payload for its owner as the owner's mode allows.

        Raises:
            CountError: not recorded and not allowed to ask, or the API did not count it.
        """
        return self.counter.count(self.job(owner, payload))

    def job(self, owner: Owner, payload: Payload) -> Job:
        """Return all that it takes to count a payload for its owner later."""
        source = self._source(owner)
        self._asked.setdefault(source.asker.name, set()).add(payload.fingerprint)
        return Job(payload, *source)

    def make_client_ready(self, owner: Owner) -> None:
        """Make the client now, if counts of this owner may be sent at all."""
        if self._source(owner).mode != "none":
            self.counter.client()

    def save(self, owner: Owner) -> None:
        """Save what an owner has recorded; `rewrite` drops what it no longer asks for."""
        source = self._sources.pop(owner, None)
        if source is None or source.mode in ("none", "live"):
            return
        if source.mode == "rewrite":
            source.cassette.prune(source.asker.name, self._asked.get(source.asker.name, set()))
        source.cassette.save()

    def save_all(self) -> None:
        """Save what all owners have recorded; no test is left to fail, so an error is a note."""
        for owner in list(self._sources):
            try:
                self.save(owner)
            except CountCassetteError as error:
                self._notes.add(f"counts were not saved: {error}")

    def _source(self, owner: Owner) -> _Source:
        source = self._sources.get(owner)
        if source is None:
            asker, path = self._asker_and_path(owner)
            cassette = CountCassette.load(path)
            source = _Source(cassette, self._mode(owner, cassette, asker), asker)
            self._sources[owner] = source
        return source

    def _asker_and_path(self, owner: Owner) -> tuple[Asker, Path]:
        config = self._config
        if isinstance(owner, TestAttempt):
            asker = Asker(owner.nodeid, run=count_target(config, owner.nodeid))
            return asker, cassette_path(owner.item)
        if isinstance(owner, SharedFixture):
            key = owner.key
            node = key.node or key.baseid
            # Modules and parameters share the file; one must not drop what another has asked for.
            param = f"[{key.param}]" if key.param else ""
            asker = Asker(f"{node}::{key.name}{param}", run=count_target(config, node))
            return asker, fixture_cassette_path(config, key.baseid, key.scope, key.name)
        path = fixture_cassette_path(config, "", "session", "outside-tests")
        return Asker("outside-tests", run=count_target(config, "")), path

    def _mode(self, owner: Owner, cassette: CountCassette, asker: Asker) -> Mode:
        mode = cast("Mode", record_mode(owner.item, self._config, self._settings))
        if mode != "once":
            return mode
        # `once` is once per session: a rerun may count what the first attempt did not reach.
        if not cassette.has_recorded(asker.name):
            self._new_askers.add(asker.name)
        return "new_episodes" if asker.name in self._new_askers else "once"
