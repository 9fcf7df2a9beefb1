"""`llmcost prune`: counts of tests that are gone are removed, and all others stay."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project
from standin import StandIn
from warm_python import warm_python

from pytest_llmcost import files
from pytest_llmcost.cli.main import main
from pytest_llmcost.counting.cassette import Entry, read_entries, write_entries

GONE = "tests/test_a.py::test_gone"
TESTS = """
    import pytest

    def test_one():
        pass

    @pytest.mark.parametrize("kind", ["a::b", "[x]", "é"])
    def test_kinds(kind):
        pass

    class TestBox:
        def test_in_class(self):
            pass
"""


@pytest.fixture
def project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same project, for a pytest that the command starts."""
    monkeypatch.setattr(sys, "executable", warm_python())
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p llmcost")
    return project


@pytest.fixture
def suite(project: Project) -> Project:
    return project.write(pytest_ini="[pytest]\n", tests__test_a=TESTS)


def counts(project: Project, name: str, *askers: str, **more: tuple[str, ...]) -> Path:
    """Write a count cassette: a count for each name, and the tests that asked for it."""
    path = project.path / f"{name}.llmcost.yaml"
    asked: Mapping[str, tuple[str, ...]] = {"one": askers, **more} if askers else more
    write_entries(
        path,
        [
            Entry(
                fingerprint=f"2:{fingerprint}",
                model="claude-opus-4-7",
                asked_by=tests,
                parts={"system": fingerprint},
                input_tokens=1700,
            )
            for fingerprint, tests in asked.items()
        ],
    )
    return path


def prune(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    found = main(["prune", *arguments])
    out, err = capsys.readouterr()
    assert found == status, out + err
    return out + err


def test_what_rewrite_recorded_is_removed_once_its_test_is_gone(
    project: Project, standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
        def test_{}(llmcost):
            message = {{"role": "user", "content": "{} bells"}}
            llmcost.count({{"model": "claude-opus-4-7", "max_tokens": 1, "messages": [message]}})
    """
    both = code.format("kept", "Two") + code.format("gone", "Three")
    project.online(standin).write(pytest_ini="[pytest]\n", test_shop=both)
    project.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=2)
    gone = project.path / "cassettes" / "test_shop" / "test_gone.llmcost.yaml"
    kept = gone.with_name("test_kept.llmcost.yaml")
    before, [entry] = kept.read_bytes(), read_entries(gone).values()
    assert prune(capsys) == "removed 0 counts and 0 whole files; 2 counts stay\n"

    project.write(test_shop=code.format("kept", "Two"))
    listed = (
        " cassettes/test_shop/test_gone.llmcost.yaml\n"
        f"  {entry.input_tokens} input tokens, claude-opus-4-7, asked for by "
        "test_shop.py::test_gone\n"
    )
    total = " 1 count and 1 whole file; 1 count stays\n"
    assert prune(capsys, "--dry-run") == f"would remove{listed}would remove{total}"
    assert gone.exists()
    assert prune(capsys) == f"removed{listed}removed{total}"
    assert not gone.exists()
    assert kept.read_bytes() == before
    asked = len(standin.requests)
    project.run().assert_outcomes(passed=1)
    assert len(standin.requests) == asked


def test_of_a_shared_file_only_the_dead_counts_go(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = counts(
        suite,
        "tests/cassettes/shared",
        alive=("tests/test_a.py::test_one",),
        both=(GONE, "tests/test_a.py::test_one"),
        dead=(GONE, "tests/test_gone.py::test_two"),
    )
    before = read_entries(path)
    assert prune(capsys) == (
        "removed tests/cassettes/shared.llmcost.yaml, in part\n"
        "  1,700 input tokens, claude-opus-4-7, asked for by tests/test_a.py::test_gone, "
        "tests/test_gone.py::test_two\n"
        "removed 1 count and 0 whole files; 2 counts stay\n"
    )
    del before["2:dead"]
    assert read_entries(path) == before


def test_the_counts_of_a_test_that_exists_stay(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    askers = (
        "tests/test_a.py::test_one",
        "tests/test_a.py::test_kinds[a::b]",
        "tests/test_a.py::test_kinds[[x]]",
        "tests/test_a.py::test_kinds[\\xe9]",
        "tests/test_a.py::TestBox::test_in_class",
        "outside-tests",
    )
    for number, asker in enumerate(askers):
        counts(suite, f"counts-{number}", asker)
    assert "removed 0 counts and 0 whole files; 6 counts stay" in prune(capsys)


def test_the_counts_of_a_test_that_is_gone_are_removed(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    askers = (
        GONE,
        "tests/test_a.py::test_kinds[c]",
        "tests/test_a.py::test_in_class",
        "tests/test_a.py::TestGone::test_in_class",
        "tests/gone/test_a.py::test_one",
    )
    paths = [counts(suite, f"counts-{number}", asker) for number, asker in enumerate(askers)]
    assert "removed 5 counts and 5 whole files; 0 counts stay" in prune(capsys)
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize(
    "options",
    [
        "-k nothing",
        "-m nothing",
        "--deselect tests/test_a.py::test_one",
        "tests/test_a.py::TestBox",
        "-n 2 -p xdist",
        "-qq",
        "-v --co",
        "--lf",
    ],
)
def test_a_test_that_options_leave_out_exists(
    suite: Project,
    capsys: pytest.CaptureFixture[str],
    options: str,
) -> None:
    suite.write(tests__test_fails="def test_fails(): assert False")
    suite.pytester.runpytest_inprocess()  # --lf would collect that file alone
    suite.write(pytest_ini=f"[pytest]\naddopts = {options}\nmarkers = nothing\n")
    counts(suite, "one", "tests/test_a.py::test_one")
    counts(suite, "gone", GONE)
    assert "removed 1 count and 1 whole file; 1 count stays" in prune(capsys)


def test_a_folder_that_held_nothing_else_is_removed_too(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    counts(suite, "tests/cassettes/test_gone/a/one", GONE)
    counts(suite, "tests/cassettes/test_gone/two", GONE)
    counts(suite, "tests/cassettes/test_a/kept", "tests/test_a.py::test_one")
    prune(capsys)
    assert [path.name for path in (suite.path / "tests/cassettes").iterdir()] == ["test_a"]
    counts(suite, "tests/named/a/one", GONE)
    prune(capsys, "tests/named")
    assert [*(suite.path / "tests/named").iterdir()] == []


def test_a_hook_that_deselects_or_renames_removes_no_counts(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write(
        conftest="""
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if item.name != "test_one"]
            items[-1]._nodeid = "tests/test_a.py::TestBox::renamed"
        """
    )
    counts(suite, "counts", "tests/test_a.py::test_one")
    assert "; 1 count stays" in prune(capsys)


def test_the_counts_of_test_files_that_were_not_collected_stay_and_are_named(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write(
        pytest_ini="[pytest]\ntestpaths = tests\n",
        tests__test_skipped="import pytest\npytest.importorskip('not_there')\n",
        tests__test_class="""
            import pytest

            class TestLater:
                def pytest_generate_tests(self, metafunc):
                    pytest.skip("later")

                def test_kind(self, kind):
                    pass
        """,
        more__test_more="def test_more(): pass\n",
        other__test_a="def test_other(): pass\n",
    )
    counts(suite, "tests/cassettes/skipped", "tests/test_skipped.py::test_one")
    counts(suite, "tests/cassettes/later", "tests/test_class.py::TestLater::test_kind[a]")
    counts(suite, "more/cassettes/more", "more/test_more.py::test_gone")
    # Recorded with `other/` as the rootdir.
    counts(suite, "other/cassettes/other", "test_a.py::test_other")
    assert prune(capsys) == (
        "These test files are skipped, or pytest does not collect them here, so their counts "
        "stay:\n"
        "  more/test_more.py\n"
        "  test_a.py\n"
        "  tests/test_class.py\n"
        "  tests/test_skipped.py\n"
        "removed 0 counts and 0 whole files; 4 counts stay\n"
    )


def test_the_counts_of_a_folder_that_was_moved_with_its_tests_stay(
    project: Project, standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    test = """
        def test_{}(llmcost):
            message = {{"role": "user", "content": "{} bells"}}
            llmcost.count({{"model": "claude-opus-4-7", "max_tokens": 1, "messages": [message]}})
    """
    both = test.format("one", "Two") + test.format("gone", "Three")
    project.online(standin).write(pytest_ini="[pytest]\n", shop__deep__test_a=both)
    project.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=2)
    (project.path / "shop").rename(project.path / "store")
    project.run().assert_outcomes(passed=2)
    counts(project, "store/deep/cassettes/test_a/module.primed", "shop/deep/test_a.py::primed")
    assert prune(capsys) == "removed 0 counts and 0 whole files; 3 counts stay\n"
    project.write(store__deep__test_a=test.format("one", "Two"))
    assert prune(capsys).endswith("removed 1 count and 1 whole file; 2 counts stay\n")
    project.run().assert_outcomes(passed=1)


def test_the_counts_of_a_file_that_was_renamed_with_its_cassettes_stay(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write(tests__test_new="def test_stays(): pass\n")
    counts(suite, "tests/cassettes/test_new/test_stays", "tests/test_old.py::test_stays")
    counts(suite, "tests/cassettes/test_new/test_gone", "tests/test_old.py::test_gone")
    assert prune(capsys).endswith("removed 1 count and 1 whole file; 1 count stays\n")


@pytest.mark.parametrize("new", ["tests/test_new", "tests/more/test_a"])
def test_the_counts_of_a_test_that_was_moved_out_of_its_file_stay(
    suite: Project, capsys: pytest.CaptureFixture[str], new: str
) -> None:
    folder, _, module = new.rpartition("/")
    suite.write(**{new.replace("/", "__"): "def test_gone(): pass\n"})
    suite.write(pytest_ini="[pytest]\naddopts = --import-mode=importlib\n")
    counts(suite, f"{folder}/cassettes/{module}/test_gone", GONE)
    counts(suite, "tests/cassettes/test_a/test_gone", GONE)
    assert prune(capsys).endswith("removed 1 count and 1 whole file; 1 count stays\n")


def test_the_nearest_test_file_of_that_name_is_meant(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two projects in one repository have a test file of the same name."""
    suite.write(app__tests__test_a="def test_app(): pass\n")
    counts(suite, "app/tests/cassettes/app", "tests/test_a.py::test_app")
    suite.write(pytest_ini="[pytest]\naddopts = --import-mode=importlib\n")
    assert "; 1 count stays" in prune(capsys)


def test_counts_of_shared_fixtures_go_only_with_the_test_file_that_set_them_up(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, asker in {
        "session.warm": "::warm",
        "session.engine": "tests::engine[small]",
        "session.outside-tests": "outside-tests",
        "module.box": "tests/test_a.py::box",
        "class.box": "tests/test_a.py::TestGone::box",
    }.items():
        counts(suite, f"tests/cassettes/{name}", asker)
    gone = counts(suite, "tests/cassettes/module.lamp", "tests/test_gone.py::lamp")
    assert "removed 1 count and 1 whole file; 5 counts stay" in prune(capsys)
    assert not gone.exists()


def test_names_in_a_file_cannot_move_the_cursor(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    counts(suite, "tests/cassettes/gone", f"{GONE}\x1b[2J")
    said = prune(capsys, "--dry-run")
    assert "asked for by tests/test_a.py::test_gone\\x1b[2J" in said
    assert "\x1b" not in said


def test_a_file_that_is_not_understood_is_named_and_left_alone(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = suite.path / "odd.llmcost.yaml"
    odd.write_text("interactions: 3\n")
    vcr = suite.path / "vcr.yaml"
    vcr.write_text("interactions: []\n")
    gone = counts(suite, "tests/cassettes/gone", GONE)
    said = prune(capsys)
    assert "llmcost: left alone: odd.llmcost.yaml is not a count cassette" in said
    assert (odd.exists(), vcr.exists(), gone.exists()) == (True, True, False)


def test_a_file_that_cannot_be_changed_is_an_error(
    suite: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who prunes in a script must not take what is left for removed."""
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    gone = counts(suite, "tests/cassettes/gone", GONE)
    with ThreadPoolExecutor(1) as other, files.locked(gone):
        said = other.submit(prune, capsys, status=2).result()
    assert "gone.llmcost.yaml has been locked by another process" in said
    assert "removed" not in said
    assert gone.exists()


def test_only_the_folders_given_are_pruned(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = counts(suite, "tests/a/one", GONE), counts(suite, "tests/b/two", GONE)
    hidden, own = counts(suite, ".venv/x/one", GONE), counts(suite, "env/x/one", GONE)
    (suite.path / "env" / "pyvenv.cfg").touch()
    assert "1 whole file; 0 counts stay" in prune(capsys, "tests/a", "tests/a")
    assert (one.exists(), two.exists()) == (False, True)
    prune(capsys)
    assert (two.exists(), hidden.exists(), own.exists()) == (False, True, True)
    assert "tests/c is not a folder" in prune(capsys, "tests/c", status=2)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import not_there", "No module named 'not_there'"),
        ("def test_broken(:", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("options", ["", "--continue-on-collection-errors"])
def test_it_refuses_if_tests_cannot_be_collected(
    suite: Project, capsys: pytest.CaptureFixture[str], code: str, reason: str, options: str
) -> None:
    suite.write(pytest_ini=f"[pytest]\naddopts = {options}\n", tests__test_b=code)
    gone = counts(suite, "tests/cassettes/gone", GONE)
    said = prune(capsys, status=2)
    assert said.startswith("llmcost: nothing was removed: pytest could not collect the tests in ")
    assert reason in said
    assert "pytest --collect-only -q" in said
    assert gone.exists()


def test_no_tests_at_all_is_no_reason_to_remove_everything(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(pytest_ini="[pytest]\n", conftest="import warnings; warnings.warn('old')")
    gone = counts(project, "tests/cassettes/gone", GONE)
    said = prune(capsys, status=2)
    assert "(exit status 5)" in said
    assert "Warning" not in said
    assert gone.exists()


def test_settings_of_ours_neither_hinder_collecting_nor_make_it_write(
    suite: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write(
        pytest_ini="[pytest]\nllmcost_report = cost.json\nllmcost_baseline = not-there.json\n"
    )
    prune(capsys)
    assert not (suite.path / "cost.json").exists()
