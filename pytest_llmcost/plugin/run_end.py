"""The end of a run: its ledger with all verdicts, the files that show it, and the summary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from msgspec.structs import replace

from pytest_llmcost.budgets.budget import IncreaseLimit, State, parse_increase
from pytest_llmcost.compare.baseline import (
    Fates,
    compare,
    keep_rows,
    naming_baseline,
    write_baseline,
)
from pytest_llmcost.counting.segments import REST
from pytest_llmcost.errors import LedgerError, LlmCostError
from pytest_llmcost.ledger.ledger import (
    CardId,
    Comparison,
    Ledger,
    RunRecord,
    TestRow,
    failed_otherwise,
    own_verdicts,
)
from pytest_llmcost.ledger.notes import mock_notes, notes_of_run
from pytest_llmcost.ledger.run_history import Run, append_run, read_history, run_of
from pytest_llmcost.ledger.totals import live_spenders, parts_of
from pytest_llmcost.money import exactly
from pytest_llmcost.plugin.counts import count_command_of_run
from pytest_llmcost.plugin.marker import budgets_of_run
from pytest_llmcost.plugin.other_models import with_columns, with_other_models
from pytest_llmcost.plugin.session import Session, utc_now
from pytest_llmcost.plugin.verdicts import judge_late
from pytest_llmcost.reports.github import render_annotations, render_job_summary
from pytest_llmcost.reports.junit import suite_properties, test_properties, with_properties
from pytest_llmcost.reports.plain_text import first_of, format_count
from pytest_llmcost.reports.report_file import write_report
from pytest_llmcost.reports.run_wording import (
    describe_total,
    last_attempts,
    marks_of_run,
    run_failures,
)
from pytest_llmcost.reports.terminal import View, render_short, render_summary

_COMMITS = (
    *("GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "CIRCLE_SHA1", "BITBUCKET_COMMIT"),
    *("BUILD_SOURCEVERSION", "TRAVIS_COMMIT", "GIT_COMMIT"),
)
"""Where GitHub, GitLab, Buildkite, CircleCI, Bitbucket, Azure, Travis and Jenkins state it."""


class RunEnd:
    """A run that has ended: its ledger, what it is published as, its exit status and summary."""

    def __init__(self, session: Session, pytest_session: pytest.Session) -> None:
        self.session = session
        self.problems: list[str] = []
        """What went wrong at the end, a line each: a file that could not be written, a hook."""
        self.accepted = ""
        """What was written as the new baseline, in a sentence."""
        self._pytest = pytest_session
        self._is_github = session.settings.github and os.environ.get("GITHUB_ACTIONS") == "true"
        self.ledger = _sum_up(session, pytest_session)

    def is_broken(self) -> bool:
        """Return whether a budget fails the run; one without tests can only exceed some.

        That is one over several tests, or of a test that passed. It fails, too, if tests cannot be
        told apart.
        """
        unverified = self.session.settings.unverified if self._pytest.testscollected else "warn"
        of_run = (mark.verdict.fails(unverified) for mark in marks_of_run(self.ledger))
        return any((*of_run, _tests_with("exceeded", self.ledger), _namesakes(self.ledger)))

    @exactly()
    def publish(self) -> None:
        """Write what was asked for, and settle the exit status."""
        session, settings = self.session, self.session.settings
        self.settle_status()
        ledger, history = self.ledger, list[Run]()
        if settings.update_baseline and settings.baseline is not None:
            with self._noting_problems():
                self._accept(settings.baseline)
        if settings.history is not None:
            if ledger.run.has_tests:
                with self._noting_problems():
                    run = run_of(ledger)
                    append_run(settings.history, run, instead_of=session.in_history)
                    session.in_history = run
            with suppress(LedgerError):  # appending to it has said why
                history, _ = read_history(settings.history)
        for path in settings.report:
            with self._noting_problems():
                write_report(ledger, path, history)
        if self._is_github and (job := os.environ.get("GITHUB_STEP_SUMMARY")):
            # Append, because all steps of the job share the file; but replace what this run has
            # written before a call ended late.
            with self._noting_problems(), open(job, "ab") as summary:
                at, (begin, end) = os.path.getsize(job), session.in_job_summary
                at = summary.truncate(begin) if end and at == end else at
                text = render_job_summary(ledger, used_bytes=at).encode()
                summary.write(text)
                session.in_job_summary = at, at + len(text)
        self.settle_status()

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except (LlmCostError, OSError) as error:
            problem = f"not written: {error}"
            if problem not in self.problems:
                self.problems.append(problem)

    def _accept(self, baseline: Path) -> None:
        """Write the run as the new baseline; tests that did not pass keep their old rows.

        A test that failed for another reason than its budget, perhaps before its first call, and
        has no row to keep, makes that impossible.
        """
        session, ledger, old = self.session, self.ledger, self.session.base
        if not ledger.run.has_tests:
            raise LedgerError(f"{baseline}: no test ran")
        for why in _namesakes(ledger):
            raise LedgerError(f"{baseline}: {why}")
        kept = set() if old is None else {test.nodeid for test in old.tests} & session.not_passed
        rows = last_attempts(ledger.tests)
        whole = {test.nodeid for test in rows if not failed_otherwise(test)}
        if failed := session.not_passed - session.skipped - whole - kept:
            raise LedgerError(
                f"{baseline}: {first_of(sorted(failed), 1)} failed, and the cost of a failing test "
                "is not what it will cost"
            )
        if old is not None and ledger.complete:
            ledger = keep_rows(ledger, old, session.not_passed, session.card)
        write_baseline(ledger, baseline)
        tests = format_count(len({test.nodeid for test in ledger.tests}), "test")
        self.accepted = f"baseline written to {baseline}: {describe_total(ledger)}, {tests}"

    @exactly()
    def settle_status(self) -> None:
        """Turn success into failure by a budget or an unwritten file; let the ledger name it.

        One that was published with another status is written again.
        """
        status = int(self._pytest.exitstatus)
        may_fail = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        # `pytest.exit()` sets the status although tests have failed; one has not come to its end.
        is_hidden = "interrupted" in self.session.incomplete and bool(_broken_tests(self.ledger))
        if (may_fail and (is_hidden or self.is_broken())) or (not status and self.problems):
            self._pytest.exitstatus = status = int(pytest.ExitCode.TESTS_FAILED)
        before = self.ledger.run.exit_status
        if before == status:
            return
        run = replace(self.ledger.run, finished_at=utc_now(), exit_status=status)
        self.ledger = replace(self.ledger, run=run)
        for path in self.session.settings.report:
            if before is not None and path.suffix == ".json":
                with self._noting_problems():
                    write_report(self.ledger, path)

    @exactly()
    def add_junit_properties(self, *, is_written: bool = False) -> None:
        """Pass the totals to pytest's JUnit file, and what has changed since a test's teardown.

        One that is written already is written again.
        """
        from xml.etree import ElementTree

        from _pytest.junitxml import bin_xml_escape, mangle_test_address, xml_key

        xml = self.session.config.stash.get(xml_key, None)
        if xml is None:
            return
        others = (each for each in xml.global_properties if not each[0].startswith("llmcost_"))
        xml.global_properties[:] = others
        for name, value in suite_properties(self.ledger):
            xml.add_global_property(name, value)
        prefix = [xml.prefix] if xml.prefix else []
        rows: dict[tuple[str | None, ...], TestRow] = {}
        for test in self.ledger.tests:
            *classes, name = [*prefix, *mangle_test_address(test.nodeid)]
            rows[".".join(classes), bin_xml_escape(name)] = test
        # pytest makes the XML of a test when its teardown is reported. One that has killed its
        # worker has no teardown: its XML is made here, not when the file is written.
        for reporter in xml.node_reporters_ordered:
            reporter.finalize()
            case = reporter.to_xml()
            names = case.get("classname"), case.get("name", "")
            # With a group of xdist's, its name follows an `@`.
            row = rows.get(names) or rows.get((names[0], names[1].rpartition("@")[0]))
            if row is None:
                continue
            properties = case.find("properties")
            if properties is None:
                properties = ElementTree.Element("properties")
                case.insert(0, properties)
            known = [(each.get("name", ""), each.get("value", "")) for each in properties]
            properties.clear()
            for name, now in with_properties(known, test_properties(row)):
                ElementTree.SubElement(properties, "property", name=name, value=str(now))
        if is_written:
            xml.pytest_sessionfinish()

    @exactly()
    def write_summary(self, terminal: pytest.TerminalReporter) -> None:
        """Write the table and the verdicts, one line under `-q`; problems in any case."""
        session, ledger = self.session, self.ledger
        settings, config = session.settings, session.config
        if config.get_verbosity() < 0:
            if line := render_short(ledger):
                terminal.write_line(line)
        else:
            writer = config.get_terminal_writer()
            # Private: the stream, of which the writer tells no encoding.
            encoding = getattr(getattr(writer, "_file", None), "encoding", None) or "utf-8"
            view = View(
                width=writer.fullwidth,
                rows=settings.rows,
                per=settings.per,
                root=os.path.relpath(config.rootpath, config.invocation_params.dir),
                unicode=encoding.lower().replace("-", "").startswith("utf"),
            )
            ledger = replace(ledger, notes=tuple(_in_full(ledger.notes, session.notes)))
            if rendered := render_summary(ledger, with_columns(session, ledger, view)):
                terminal.write_sep("=", "llmcost", blue=True)
            for each in rendered:
                terminal.write_line(each.text, **each.markup)
        if self.accepted:
            terminal.write_line(self.accepted, green=True)
        unverified = _tests_with("unverified", ledger, ("passed",))
        if settings.unverified == "warn" and unverified:
            tests = format_count(len(unverified), "test")
            text = f"{tests} passed with an unverified budget (llmcost_unverified=warn)"
            terminal.write_line(text, yellow=True, bold=True)
        if settings.stable_prefix != "off":
            for excerpt in session.excerpts:
                terminal.write_line(excerpt)
        for problem in self.problems:
            terminal.write_line(problem, red=True, bold=True)
        if self._is_github:
            workspace, root = Path(os.environ.get("GITHUB_WORKSPACE", ".")).absolute(), ""
            if config.rootpath.is_relative_to(workspace):  # a container has it elsewhere
                root = config.rootpath.relative_to(workspace).as_posix()
            for command in render_annotations(ledger, root=root):
                terminal.write_line(command)


_MOST_ALIKE = 5
"""How many notes are shown that files hold as one."""


def _in_full(notes: Iterable[str], own: Mapping[str, str]) -> Iterator[str]:
    """Yield notes of a ledger as the terminal shows them; `own` has what files hold of each."""
    for note in notes:
        alike = [in_full for in_full, for_files in own.items() if for_files == note]
        yield from alike[:_MOST_ALIKE] or [note]
        if rest := alike[_MOST_ALIKE:]:
            yield f"… {len(rest):,} more of the same kind"


@exactly()
def _sum_up(session: Session, pytest_session: pytest.Session) -> Ledger:
    """Return the ledger of the run, with every budget judged."""
    judge_late(session)
    session.save_counts()
    settings, card = session.settings, session.card
    ledger = session.ledger.ledger(
        price_date=session.price_date.isoformat(),
        rate_card=CardId(version=card.version, sha256=card.sha256, sources=tuple(card.sources)),
        run=RunRecord(
            started_at=session.started_at,
            finished_at=utc_now(),
            has_tests=pytest_session.testscollected > 0
            and "collection-errors" not in session.lost_calls,
            workers=session.workers,
            commit=_commit(),
        ),
        generator={name: version(name) for name in ("pytest-llmcost", "pytest")},
        cache_state=settings.cache,
        unverified=settings.unverified,
        allowed_models=settings.allowed_models,
        live=settings.live,
        stable_prefix=settings.stable_prefix,
        incomplete=session.incomplete | session.lost_calls,
        lost_calls=session.lost_calls,
        skipped=session.skipped_budgets,
        budgets=[
            replace(budget, idle=budget.pattern in session.unmatched_globs)
            for budget in budgets_of_run(settings)
        ],
        find=card.find,
        notes=dict.fromkeys(session.notes.values()),
    )
    if settings.model:
        ledger = with_other_models(session, ledger)
    notes = [*notes_of_run(ledger, card, every_test="worst" in settings.columns)]
    for nodeid in _tests_with("exceeded", ledger):
        notes.append(f"{nodeid} exceeded its budget too late to fail, so the run fails")
    notes += _namesakes(ledger)
    warned = (name for name, _ in live_spenders(ledger, "warn"))
    if live := [name for name in warned if name not in session.live_markers]:
        notes.append(f"{first_of(live, 1)} went live ({settings.origin('live')}=warn)")
    if settings.parts and any(REST not in each for each in parts_of(ledger).values()):
        command = count_command_of_run(session.config, settings, "parts")
        notes.append(f"parts of prompts not counted yet; count them all, free: {command}")
    if settings.mocks == "trust":
        notes += mock_notes(ledger)
    ledger = replace(ledger, notes=(*ledger.notes, *notes))
    if session.base is None or settings.baseline is None:
        return ledger
    return replace(ledger, comparison=_compare(session, session.base, settings.baseline, ledger))


def _compare(session: Session, base: Ledger, path: Path, ledger: Ledger) -> Comparison:
    """Compare the run with its baseline; a run that is to replace it breaks no limit."""
    settings, config, here = session.settings, session.config, session.config.invocation_params.dir
    roots = [(here / arg).resolve() for arg in config.args]

    def is_searched(nodeid: str) -> bool:
        path = config.rootpath / nodeid.partition("::")[0]
        return any(path.resolve().is_relative_to(root) for root in roots)

    def increases(name: str) -> list[IncreaseLimit]:
        origin, warn_at = settings.origin(name), settings.warn_at
        texts = () if settings.update_baseline else getattr(settings, name)
        return [parse_increase(text, origin=origin, label=name, warn_at=warn_at) for text in texts]

    deselected = set() if "deselected" in session.incomplete else session.deselected
    comparison = compare(
        base,
        ledger,
        session.card,
        limits=increases("max_increase"),
        test_limits=increases("max_test_increase"),
        vanished="off" if settings.update_baseline else settings.vanished,
        vanished_origin=settings.origin("vanished"),
        fates=Fates(is_searched, session.selected, session.skipped, session.not_passed, deselected),
    )
    if path.is_absolute():
        with suppress(ValueError):  # of another drive on Windows
            path = Path(os.path.relpath(path, here))  # as it is on other machines, too
    return naming_baseline(comparison, path, settings.baseline_fetch)


def _commit() -> str:
    """Return the commit under test, as far as CI says it.

    For a pull request GitHub tests a commit of its own, the merge, which no author knows.
    """
    try:
        event = json.loads(Path(os.environ.get("GITHUB_EVENT_PATH", "")).read_bytes())
        return str(event["pull_request"]["head"]["sha"])
    except (OSError, ValueError, LookupError, TypeError):
        return next(filter(None, map(os.environ.get, _COMMITS)), "")


def _tests_with(
    state: State, ledger: Ledger, outcomes: Sequence[str] = ("", "passed", "skipped")
) -> list[str]:
    """Return the tests with such a verdict that have not failed.

    They have exceeded it if `pytest.exit()` ended the run in them, or a call has ended after them.
    """
    return [
        test.nodeid
        for test in last_attempts(ledger.tests)
        if test.outcome in outcomes
        and any(verdict.state == state for verdict in own_verdicts(test))
    ]


def _broken_tests(ledger: Ledger) -> list[str]:
    """Return the tests that a budget fails, and the one that was left before it could."""
    return [
        test.nodeid
        for test in last_attempts(ledger.tests)
        if test.outcome in ("", "failed", "error")
        and any(verdict.fails(ledger.unverified) for verdict in own_verdicts(test))
    ]


def _namesakes(ledger: Ledger) -> list[str]:
    """Return in a sentence which node ids tests of several files share, if any do.

    pytest names a file outside of its rootdir by its path below the argument that leads there. Of
    two services side by side, the first is the rootdir if what is above them has no settings; such
    tests would be taken for attempts of one.
    """
    files: dict[str, set[str]] = {}
    for test in ledger.tests:
        files.setdefault(test.nodeid, set()).add(test.path)
    shared = sorted(nodeid for nodeid, paths in files.items() if len(paths) > 1)
    return [
        f"tests in {' and '.join(sorted(files[first]))} have the same node id, "
        f"{first_of(shared, 1)}, so their costs cannot be told apart and the run fails; run pytest "
        "for each of them by itself"
        for first in shared[:1]
    ]


@exactly()
def write_run_failures(
    end: RunEnd | None, other: Sequence[str], terminal: pytest.TerminalReporter
) -> None:
    """End pytest's short summary with the budgets, and what else, that no test fails by.

    They count as failed in pytest's last line, and so does what they leave unsaid, such as a file
    that was not written: a run that exits with 1 must not end in green.
    """
    lines = [*(run_failures(end.ledger) if end is not None else ()), *other]
    if end is not None:
        lines += [f"FAILED llmcost - {why}" for why in _namesakes(end.ledger)]
    is_red = bool(terminal.stats.get("failed") or terminal.stats.get("error"))
    if lines and not is_red:
        terminal.write_sep("=", "short test summary info", cyan=True, bold=True)
    failed = lines
    if end is not None and not (lines or is_red):
        is_failed = end.ledger.run.exit_status == pytest.ExitCode.TESTS_FAILED
        left = _broken_tests(end.ledger) if is_failed else ()
        failed = [*end.problems, *sorted({*_tests_with("exceeded", end.ledger), *left})]
    for line in lines:
        word, _, rest = line.partition(" ")
        name, dash, why = rest.partition(" - ")
        terminal.write(word, red=True)  # the colours of pytest's own lines
        terminal.write(f" {name}", bold=True)
        terminal.write_line(f"{dash}{why}")
    for text in failed:  # as reports, for other plugins may read them even later
        report = pytest.TestReport("llmcost", ("", None, "llmcost"), {}, "failed", text, "call")
        terminal.stats.setdefault("failed", []).append(report)


@exactly()
def write_late(end: RunEnd, before: RunEnd | None, terminal: pytest.TerminalReporter) -> None:
    """Correct the summary by a line, if calls have ended since it was written."""
    if line := render_short(end.ledger):
        late = "calls ended after the summary, this is what the reports say"
        terminal.write_line(f"{line} ({late})", bold=True)
    if before is None or not before.is_broken():
        write_run_failures(end, (), terminal)
