"""Progress of a long recording: a counter on the terminal, in the style of pytest's own.

No counter is shown where the output is no terminal, in workers, and under `-q`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from pytest_llmcost.counting.client import Progress

_SECONDS_BETWEEN = 0.1
"""Nobody reads faster, and a slow terminal must not slow the counting down."""


@contextmanager
def showing_progress(config: pytest.Config) -> Iterator[Callable[[Progress], None] | None]:
    """Give what shows the progress of counting, where there is a terminal to show it on."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not terminal.isatty or config.get_verbosity() < 0:
        yield None
        return
    with _uncaptured(config):
        shown = _Shown(terminal)
        try:
            yield shown.show
        finally:
            shown.end()


def show_waiting(config: pytest.Config, text: str) -> None:
    """Say what a count is waiting for, on any terminal and in any log, but not in workers."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        with _uncaptured(config):
            terminal.ensure_newline()
            terminal.write_line(text)
            terminal.flush()


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    capture = config.pluginmanager.get_plugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


class _Shown:
    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._shown_at: float | None = None

    def show(self, progress: Progress) -> None:
        """Write the counter over the one before."""
        is_last = progress.done == progress.total
        if self._shown_at is None:
            self._terminal.ensure_newline()
        elif progress.seconds - self._shown_at < _SECONDS_BETWEEN and not is_last:
            return
        self._shown_at = progress.seconds
        self._terminal.rewrite(render_progress(progress), bold=True, erase=True)

    def end(self) -> None:
        """Leave the last counter standing."""
        if self._shown_at is not None:
            self._terminal.write_line("")


def render_progress(progress: Progress) -> str:
    """Write how far it is, how fast, and how long it will take.

    Example:
        >>> render_progress(Progress(done=500, total=2_000, failed=0, seconds=10.0))
        'llmcost: counted 500/2,000, 50/s, 30 s left [ 25%]'
    """
    failed = f" ({progress.failed:,} failed)" if progress.failed else ""
    text = f"llmcost: counted {progress.done:,}/{progress.total:,}{failed}"
    if progress.per_second:
        text += f", {progress.per_second:,.0f}/s"
    left = progress.seconds_left
    if left is not None and progress.done < progress.total:
        text += f", {_duration(left)} left"
    return f"{text} [{100 * progress.done // progress.total:>3}%]"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
