"""Guards that vanished: named where a test watches nothing any more, and never in a mere part."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from spending_suite import APP, Ran, run_suite, write_files

from pytest_llmcost.cli.main import main

SUITE = {
    "app.py": APP,
    "pytest.ini": "[pytest]\nmarkers = slow\n",
    "tests/test_a.py": """
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @max_cost("$0.01")
        def test_skipped():
            ask(10)

        @max_cost("$0.01", calls=3)
        def test_budget():
            ask(11)

        def test_calls():
            ask(12)

        @pytest.mark.slow
        @max_cost("$0.01")
        def test_slow():
            ask(13)

        @max_cost("$0.01")
        def test_renamed():
            ask(14)

        def test_nothing():
            pass
    """,
    "tests/deep/test_b.py": """
        import unittest
        from app import ask
        from pytest_llmcost import max_cost

        class TestB:
            @max_cost("$0.01")
            def test_b(self):
                ask(20)

        class TestC(unittest.TestCase):
            def test_c(self):
                ask(30)
    """,
}


def changed(files: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    assert any(old in text for text in files.values()), old
    return {name: text.replace(old, new) for name, text in files.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite and its baseline, made once."""
    path = tmp_path_factory.mktemp("suite")
    write_files(path, SUITE)
    ran = run_suite(path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    assert ran.status == 0, ran.out
    return path


@pytest.fixture
def suite(tmp_path: Path, made: Path) -> Path:
    """A suite with a baseline."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def compare(
    path: Path, *args: str, plugins: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Ran:
    base = "--llmcost-baseline=base.json"
    return run_suite(path, base, *args, plugins=plugins, env=env)


def vanished(ran: Ran) -> dict[str, str]:
    comparison = ran.ledger()["comparison"]
    return {each["name"]: each["how"] for each in comparison.get("vanished", ())}


A, B = "tests/test_a.py", "tests/deep/test_b.py"
FIRES = {
    "skipped by a mark": (
        '@max_cost("$0.01")\n        def test_skipped',
        '@pytest.mark.skip\n        @max_cost("$0.01")\n        def test_skipped',
        {f"{A}::test_skipped": "skipped"},
    ),
    "skipped in its body": ("ask(12)", "pytest.skip()", {f"{A}::test_calls": "skipped"}),
    "skipped as unittest does": (
        "ask(30)",
        'self.skipTest("late")',
        {f"{B}::TestC::test_c": "skipped"},
    ),
    "a class that is skipped": (
        "class TestB:",
        "import pytest\n        @pytest.mark.skip\n        class TestB:",
        {f"{B}::TestB::test_b": "skipped"},
    ),
    "a module that is skipped": (
        "class TestB:",
        "import pytest\n        pytest.skip(allow_module_level=True)\n        class TestB:",
        {f"{B}::TestB::test_b": "skipped", f"{B}::TestC::test_c": "skipped"},
    ),
    "deselected by the ini file": (
        "markers = slow",
        "markers = slow\naddopts = -m 'not slow'",
        {f"{A}::test_slow": "deselected"},
    ),
    "deleted": ("def test_calls", "def no_test_calls", {f"{A}::test_calls": "deleted or renamed"}),
    "without any budget": (
        '@max_cost("$0.01", calls=3)',
        "",
        {f"{A}::test_budget": "without its budget"},
    ),
    "not run as an expected failure": (
        '@max_cost("$0.01")\n        def test_skipped',
        '@pytest.mark.xfail(run=False)\n        @max_cost("$0.01")\n        def test_skipped',
        {f"{A}::test_skipped": "skipped"},
    ),
    "without one of two": (
        '"$0.01", calls=3',
        "calls=3",
        {f"{A}::test_budget": "without its budget"},
    ),
    "without budget and calls": (
        '@max_cost("$0.01")\n        def test_skipped():\n            ask(10)',
        "def test_skipped(): pass",
        {f"{A}::test_skipped": "without its budget"},
    ),
    "renamed and without a budget": (
        '@max_cost("$0.01")\n        def test_renamed',
        "def test_named",
        {f"{A}::test_renamed": "without its budget"},
    ),
}


TOGETHER = {
    "most": (
        *("skipped by a mark", "skipped in its body", "skipped as unittest does"),
        *("a class that is skipped", "deselected by the ini file", "without any budget"),
        "renamed and without a budget",
    ),
    "a module": (
        *("a module that is skipped", "deleted", "not run as an expected failure"),
        "without one of two",
    ),
    "one that is silent": ("without budget and calls",),
}
"""What happens to different tests, so that one run shows it all."""


def test_everything_that_no_longer_watches_is_in_a_run() -> None:
    assert sorted(name for names in TOGETHER.values() for name in names) == sorted(FIRES)


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_it_names_what_no_longer_watches(
    suite: Path, workers: tuple[str, ...], names: tuple[str, ...]
) -> None:
    files, found = dict(SUITE), dict[str, str]()
    for old, new, how in map(FIRES.__getitem__, names):
        files = changed(files, old, new)
        found |= how
    write_files(suite, files)
    ran = compare(suite, *workers, plugins=("xdist",) if workers else ())
    assert vanished(ran) == found
    assert ran.status == 0, ran.out
    for name, state in found.items():
        assert re.search(rf"  {re.escape(name)}: {state} \(baseline: \$0\.\d+ in 1 call", ran.out)


def test_it_is_a_gate_if_that_is_asked_for_and_can_be_turned_off(suite: Path) -> None:
    old, new, found = FIRES["a module that is skipped"]
    write_files(suite, changed(SUITE, old, new))
    failed = compare(suite, "--llmcost-vanished=fail")
    assert (failed.status, vanished(failed)) == (1, found)
    assert f"FAILED --llmcost-vanished - {len(found)} guard" in failed.out, failed.out
    accepted = "accept it: pytest --llmcost-update-baseline --llmcost-baseline=base.json"
    assert accepted in " ".join(failed.out.split())
    off = compare(suite, env={"PYTEST_LLMCOST_VANISHED": "off"})
    assert (off.status, vanished(off)) == (0, {})


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_budget_of_one_run_stands_for_none_of_the_suite(suite: Path, how: str) -> None:
    args = ("--llmcost-max-test=$1",) if how == "flag" else ()
    env = {"PYTEST_LLMCOST_MAX_TEST": "$1"} if how == "environment" else {}
    old, new, found = FIRES["without any budget"]
    write_files(suite, changed(SUITE, old, '@max_cost("$0.01")'))  # a flag cannot replace its calls
    run_suite(suite, "--llmcost-report=base.json")
    write_files(suite, changed(SUITE, old, new))
    failed = compare(suite, "--llmcost-vanished=fail", *args, env=env)
    assert (failed.status, vanished(failed)) == (1, found)
    # It hides the budget of the ini file, which is there as before.
    write_files(suite, changed(SUITE, "markers = slow", "markers = slow\nllmcost_max_test = $1"))
    run_suite(suite, "--llmcost-report=base.json")
    assert vanished(compare(suite, "--llmcost-vanished=fail", *args, env=env)) == {}


def test_each_part_of_a_prompt_is_a_guard_of_its_own(tmp_path: Path) -> None:
    parts = """
        from app import ask
        from pytest_llmcost import max_cost

        @max_cost(parts={"system": "3k", "messages": "3k"})
        def test_parts():
            ask(10)
    """
    write_files(tmp_path, {"app.py": APP, "test_parts.py": parts})
    warn = "--llmcost-unverified=warn"  # nothing is counted
    run_suite(tmp_path, "--llmcost-baseline=base.json", "--llmcost-update-baseline", warn)
    write_files(tmp_path, {"test_parts.py": parts.replace(', "messages": "3k"', "")})
    assert vanished(compare(tmp_path, warn)) == {"test_parts.py::test_parts": "without its budget"}


HARMLESS = {
    "a longer prompt": ("ask(20)", "ask(25)"),
    "another limit": ('"$0.01", calls=3', '"$0.02", calls=4'),
    "a new name for the same prompts": ("test_renamed", "test_named"),
    "a new skipped test": ("def test_nothing", "@pytest.mark.skip\n        def test_new"),
    "a failure in the set-up": ("def test_calls()", "def test_calls(no_such_fixture)"),
    "a failure": ("ask(10)", "ask(10); assert 0"),
    "no call any more": ("ask(30)", "pass"),
}


def test_it_names_nothing_after_harmless_changes(suite: Path) -> None:
    assert vanished(compare(suite, "--llmcost-vanished=fail")) == {}
    files = dict(SUITE)
    for old, new in HARMLESS.values():
        files = changed(files, old, new)
    write_files(suite, files)
    ran = compare(suite, "--llmcost-vanished=fail")
    assert vanished(ran) == {}
    assert "1 failed, 5 passed, 1 skipped, 1 error" in ran.out, ran.out


def test_an_expected_failure_that_ends_as_it_did_in_the_baseline_has_not_vanished(
    tmp_path: Path,
) -> None:
    text = """
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @max_cost("$0.01")
        def test_calls():
            ask(10)
            pytest.xfail("known")

        @max_cost("$0.01")
        def test_nothing():
            pytest.xfail("known")

        @max_cost("$0.01")
        def test_whole():
            ask(10)
    """
    write_files(tmp_path, {"app.py": APP, "test_known.py": text})
    run_suite(tmp_path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    again = compare(tmp_path, "--llmcost-vanished=fail")
    assert (again.status, vanished(again)) == (0, {}), again.out
    write_files(tmp_path, {"test_known.py": text.replace("ask(10)", "pass", 1)})
    ran = compare(tmp_path, "--llmcost-vanished=fail")
    assert (ran.status, vanished(ran)) == (1, {"test_known.py::test_calls": "skipped"})
    (change,) = ran.ledger()["comparison"]["changes"]
    assert change["status"] == "skipped"
    write_files(tmp_path, {"test_known.py": f"{text}        pytest.xfail()"})
    ran = compare(tmp_path, "--llmcost-vanished=fail")
    assert (ran.status, vanished(ran)) == (1, {"test_known.py::test_whole": "skipped"})


def test_a_test_that_calls_nothing_is_no_guard_by_the_budget_of_all_tests(suite: Path) -> None:
    files = changed(SUITE, "markers = slow", "markers = slow\nllmcost_max_test = $1")
    write_files(suite, files)
    run_suite(suite, "--llmcost-report=base.json")
    write_files(suite, changed(files, "def test_nothing", "def test_other"))
    assert vanished(compare(suite, "--llmcost-vanished=fail")) == {}


def test_a_new_test_stands_for_no_more_than_one_that_is_gone_and_only_by_its_prompts(
    tmp_path: Path,
) -> None:
    recorded = """
        from app import ask
        from pytest_llmcost import max_cost

        def test_recorded(llmcost):
            llmcost.record({"input_tokens": 10, "output_tokens": 1}, model="claude-opus-4-7")

        @max_cost("$0.01")
        def test_one():
            ask(10)

        @max_cost("$0.01")
        def test_two():
            ask(10)
    """
    unlike = recorded.replace("test_recorded", "test_unlike").replace('": 10', '": 99')
    write_files(tmp_path, {"app.py": APP, "test_it.py": recorded})
    run_suite(tmp_path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    new = unlike.replace("test_two", "test_second").replace("def test_one", "def no_test")
    write_files(tmp_path, {"test_it.py": new})
    ran = compare(tmp_path)
    gone = vanished(ran)
    assert gone.pop("test_it.py::test_recorded", None) == "deleted or renamed", ran.out
    assert list(gone.values()) == ["deleted or renamed"]


DESELECT = """
    def pytest_addoption(parser):
        parser.addoption("--run-slow", action="store_true")
        parser.addoption("--few-tests", action="store_true")

    def pytest_collection_modifyitems(config, items):
        if not config.getoption("--run-slow"):
            slow = [item for item in items if "slow" in item.keywords]
            few = items[::2] if config.option.few_tests else []
            config.hook.pytest_deselected(items=[*slow, *few])
            items[:] = [item for item in items if item not in (*slow, *few)]
"""
SILENT = DESELECT.replace("config.hook.pytest_deselected(items=[*slow, *few])", "")
IN_A_CLASS = """
    class Selects:
        def pytest_collection_modifyitems(self, items):
            items[:] = [item for item in items if "slow" not in item.keywords]

    def pytest_configure(config):
        config.pluginmanager.register(Selects())
"""
INI = {"pytest.ini": "[pytest]\nmarkers = slow\naddopts = -m 'not slow'\n"}
OWN_SELECTION = {
    "the ini file": (INI, ()),
    "a conftest": ({"conftest.py": DESELECT}, ()),
    "a conftest that does not say so": ({"conftest.py": SILENT}, ()),
    "a plugin in a conftest": ({"conftest.py": IN_A_CLASS}, ()),
    "a conftest of workers": ({"conftest.py": DESELECT}, ("-n2",)),
}


@pytest.mark.parametrize(("files", "workers"), OWN_SELECTION.values(), ids=OWN_SELECTION)
def test_what_the_suite_itself_deselects_leaves_it_whole(
    tmp_path: Path, files: dict[str, str], workers: tuple[str, ...]
) -> None:
    plugins = ("xdist",) if workers else ()
    write_files(tmp_path, {**SUITE, **files})
    update = ("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    base = run_suite(tmp_path, *update, *workers, plugins=plugins)
    assert (base.status, base.ledger()["incomplete"]) == (0, []), base.out
    gone = changed(SUITE, "def test_calls", "def no_test_calls")
    write_files(tmp_path, {**gone, **files})
    ran = compare(tmp_path, "--llmcost-vanished=fail", *workers, plugins=plugins)
    assert vanished(ran) == {f"{A}::test_calls": "deleted or renamed"}
    assert ran.status == 1
    partial = compare(tmp_path, "-k", "test_b or test_slow", *workers, plugins=plugins)
    assert (vanished(partial), partial.ledger()["incomplete"]) == ({}, ["deselected"])


@pytest.mark.parametrize("deselect", [DESELECT, SILENT], ids=["says so", "does not say so"])
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_an_option_of_a_conftest_selects_a_part_for_one_run(
    suite: Path, workers: tuple[str, ...], deselect: str
) -> None:
    write_files(suite, {"conftest.py": deselect})
    args, plugins = ("--llmcost-vanished=fail", *workers), ("xdist",) if workers else ()
    few = compare(suite, "--few-tests", *args, plugins=plugins)
    assert (vanished(few), few.ledger()["incomplete"]) == ({}, ["deselected"])
    whole = compare(suite, "--run-slow", *args, plugins=plugins)
    assert (vanished(whole), whole.ledger()["incomplete"]) == ({}, [])
    without_slow = compare(suite, *args, plugins=plugins)
    assert vanished(without_slow) == {f"{A}::test_slow": "deselected"}


PARTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "-k": (("-k", "calls"), {}),
    "-m": (("-m", "not slow"), {}),
    "-m in the environment": ((), {"PYTEST_ADDOPTS": "-m 'not slow'"}),
    "a file": ((A,), {}),
    "a test": ((f"{A}::test_calls",), {}),
    "a folder": (("tests/deep",), {}),
    "ignored": (("--ignore=tests/deep",), {}),
    "-x": (("-x",), {"FAIL": "1"}),
    "--deselect": ((f"--deselect={A}::test_calls",), {}),
    "a shard of a plugin": (("-p", "shards"), {}),
    "a shard that does not say so": (("-p", "silent_shards"), {}),
    "two workers": (("-n2", "-p", "xdist", "-k", "calls"), {}),
    "groups of workers": (("-n2", "-p", "xdist", "--dist=loadgroup"), {}),
    "a stopped run of workers": (("-n2", "-p", "xdist", "-x"), {"FAIL": "1"}),
}


@pytest.mark.parametrize(("args", "env"), PARTS.values(), ids=PARTS)
def test_a_part_of_the_suite_does_not_cry_wolf(
    suite: Path, args: tuple[str, ...], env: dict[str, str]
) -> None:
    shards = """
        def pytest_collection_modifyitems(config, items):
            config.hook.pytest_deselected(items=items[::2])
            items[:] = items[1::2]
    """
    fails = changed(
        SUITE, "ask(10)", 'ask(10)\n            import os; assert "FAIL" not in os.environ'
    )
    ini = changed(fails, "markers = slow", "markers = slow\n    xdist_group\naddopts = -m ''")
    silent = shards.replace("config.hook.pytest_deselected(items=items[::2])", "")
    sorts = "def pytest_collection_modifyitems(items): items.sort(key=str)"
    plugins = {"shards.py": shards, "silent_shards.py": silent}
    write_files(suite, {**ini, **plugins, "conftest.py": sorts})
    ran = compare(suite, "--llmcost-vanished=fail", *args, env=env)
    assert vanished(ran) == {}, ran.out
    assert ran.ledger()["tests"], ran.out


@pytest.mark.parametrize(
    "hook",
    [
        """
        def pytest_collection_finish(session):
            session.config.hook.pytest_deselected(items=session.items[::2])
            session.items[:] = session.items[1::2]
        """,
        """
        def pytest_collection_modifyitems(items):
            items[:] = items[1::2] * 3
        """,
    ],
    ids=["after the hook for it", "the rest three times"],
)
def test_a_plugin_that_deselects_otherwise_makes_the_run_a_part(suite: Path, hook: str) -> None:
    write_files(suite, {"shards.py": hook})
    ran = compare(suite, "--llmcost-vanished=fail", "-p", "shards")
    assert (vanished(ran), ran.ledger()["incomplete"]) == ({}, ["deselected"]), ran.out


@pytest.mark.parametrize("again", ["--lf", "--sw"])
def test_a_run_of_what_failed_last_is_a_part(suite: Path, again: str) -> None:
    with_cache = ("-p", "cacheprovider", "-p", "stepwise", again)
    write_files(suite, changed(SUITE, "ask(12)", "ask(12); assert 0"))
    compare(suite, *with_cache)
    write_files(suite, SUITE)
    ran = compare(suite, *with_cache, "--llmcost-vanished=fail")
    assert "1 passed" in ran.out or "deselected" in ran.out, ran.out
    assert (vanished(ran), ran.ledger()["complete"]) == ({}, False)


def test_shards_cry_no_wolf_and_their_sum_names_what_is_gone(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(suite, changed(SUITE, "def test_calls", "def no_test_calls"))
    shards = []
    for number, path in enumerate((A, B)):
        shards.append(str(suite / f"shard{number}.json"))
        ran = compare(suite, path, f"--llmcost-report={shards[-1]}", "--llmcost-vanished=fail")
        assert (ran.status, vanished(ran)) == (0, {})
    merged, base = str(suite / "merged.json"), str(suite / "base.json")
    for whole, status in (((), 0), (("--whole",), 1)):
        assert main(["merge", *shards, "-o", merged, *whole]) == 0
        capsys.readouterr()
        assert main(["compare", base, merged, "--vanished=fail"]) == status
        named = f"{A}::test_calls: not in this run (baseline: $0." in capsys.readouterr().out
        assert named is bool(whole)
    assert main(["compare", base, merged]) == 0
    assert main(["compare", base, merged, "--vanished=off"]) == 0


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_without_a_baseline_skipped_tests_with_a_budget_are_counted(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    skips = """
        import pytest
        import unittest
        from pytest_llmcost import max_cost

        @pytest.mark.skip
        @max_cost("$1")
        def test_one(): pass

        @max_cost("$1")
        class TestTwo:
            def test_two(self): pytest.skip()

        class TestThree(unittest.TestCase):
            @max_cost("$1")
            def test_three(self): self.skipTest("late")

        @max_cost("$0.001")
        def test_over_budget(llmcost):
            llmcost.record({}, usd="1")
            pytest.skip()

        @pytest.fixture
        def spent(llmcost):
            llmcost.record({}, usd="1")
            pytest.skip()

        @max_cost("$0.001")
        def test_over_budget_before_it_begins(spent): pass

        @pytest.mark.skip
        def test_without(): pass
    """
    write_files(tmp_path, {"test_skips.py": skips})
    plugins = ("xdist",) if workers else ()
    ran = run_suite(tmp_path, *workers, plugins=plugins)
    assert "llmcost: 3 tests with a budget were skipped" in ran.out, ran.out
    kept = {"test_skips.py": "def test_a(): pass\n"}
    write_files(tmp_path, kept)
    assert "were skipped" not in run_suite(tmp_path, *workers, plugins=plugins).out


def test_the_comment_and_a_report_drawn_again_name_it_too(suite: Path) -> None:
    write_files(suite, changed(SUITE, "def test_calls", "def no_test_calls"))
    args = ("--llmcost-vanished=fail", "--llmcost-report=comment.md")
    ran = compare(suite, *args, env={"GITHUB_ACTIONS": "true"})
    comment = (suite / "comment.md").read_text(encoding="utf-8")
    assert "test\\_calls: deleted or renamed (baseline: $0." in comment or (
        "test_calls: deleted or renamed (baseline: $0." in comment
    )
    assert "1 rule broken" in comment
    assert "::error" in ran.out
    assert main(["render", str(suite / "ledger.json"), "-o", str(suite / "again.md")]) == 0
    assert (suite / "again.md").read_text(encoding="utf-8") == comment
    assert json.loads((suite / "ledger.json").read_text())["run"]["exit_status"] == 1


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_test_without_calls_is_removed_only_if_it_is_gone(
    suite: Path, workers: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = changed(
        SUITE, "class TestB:", "import pytest\n        @pytest.mark.skip\n        class TestB:"
    )
    files = changed(files, "ask(30)", 'self.skipTest("late")')
    files = changed(files, "ask(10)", "pytest.skip()")
    files = changed(files, "ask(12)", "pass")
    files = changed(files, "test_renamed", "named")
    write_files(suite, files)
    ran = compare(suite, *workers, plugins=("xdist",) if workers else ())
    states = {each["name"]: each["status"] for each in ran.ledger()["comparison"]["changes"]}
    assert states == {
        f"{B}::TestB::test_b": "skipped",
        f"{B}::TestC::test_c": "skipped",
        f"{A}::test_skipped": "skipped",
        f"{A}::test_calls": "no calls",
        f"{A}::test_renamed": "removed",
    }
    assert re.search(r"TestB::test_b +\$0\.\d+ +skipped +-\$0\.\d+", ran.out)
    # Two ledgers alone do not tell a test that is gone from one without budget that was skipped.
    assert main(["compare", str(suite / "base.json"), str(suite / "ledger.json")]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"\$0\.\d+ +no calls +-\$0\.\d+", shown)) == 4
    assert re.search(r"test_skipped +\$0\.\d+ +skipped +-\$0\.\d+", shown)
