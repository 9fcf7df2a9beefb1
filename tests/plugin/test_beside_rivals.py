"""Beside pytest-vcr and cassetter, which cannot run beside pytest-recording."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

PYTEST_VCR = """
    import os
    import pytest

    @pytest.fixture(scope="module")
    def vcr_cassette_dir(request):
        return os.path.join(os.path.dirname(request.node.path), "cassettes")
"""
"""The fixture of pytest-vcr 1.0.2 that has the same name as one of pytest-recording."""
TEST = "def test_nothing(): pass\n"
COUNTS = """
    def test_one(llmcost):
        llmcost.count({"model": "claude-opus-4-7", "max_tokens": 9,
                       "messages": [{"role": "user", "content": "word"}]})
"""


@pytest.fixture
def beside_pytest_vcr(project: Project) -> Project:
    """A project in whose environment a package is installed as pytest-vcr is."""
    info = project.path / "pytest_vcr-1.0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-vcr\nVersion: 1.0.2\n")
    (info / "entry_points.txt").write_text("[pytest11]\nvcr = pytest_vcr\n")
    project.pytester.syspathinsert(project.path)
    return project.write(pytest_vcr=PYTEST_VCR, test_app=TEST)


@pytest.mark.parametrize("plugins", [("recording", "vcr"), ("vcr", "recording")])
def test_beside_pytest_vcr_one_line_says_what_to_add(
    beside_pytest_vcr: Project, plugins: tuple[str, str]
) -> None:
    result = beside_pytest_vcr.run(plugins=plugins)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line]
    assert line.startswith("ERROR: pytest-vcr cannot run beside pytest-recording, which pytest-llm")
    assert "add -p no:recording to addopts" in line


@pytest.mark.parametrize("plugins", [("vcr",), ("recording",), ("recording", "no:vcr")])
def test_one_of_them_alone_is_left_alone(
    beside_pytest_vcr: Project, plugins: tuple[str, ...]
) -> None:
    beside_pytest_vcr.run(plugins=plugins).assert_outcomes(passed=1)


def test_counts_have_the_same_paths_whichever_recorder_there_is(
    beside_pytest_vcr: Project, standin: StandIn
) -> None:
    beside_pytest_vcr.online(standin).write(test_app=COUNTS)
    beside_pytest_vcr.record(plugins=("recording",)).assert_outcomes(passed=1)
    for plugins in [("recording",), ("no:recording",), ("vcr",), ("cassetter",)]:
        beside_pytest_vcr.run(plugins=plugins).assert_outcomes(passed=1)
    assert len(standin.counted) == 1


def test_a_folder_that_the_user_sets_holds_beside_pytest_vcr_too(
    beside_pytest_vcr: Project, standin: StandIn
) -> None:
    own = """
        import pytest

        @pytest.fixture
        def vcr_cassette_dir():
            return "own"
    """
    beside_pytest_vcr.online(standin).write(test_app=COUNTS, conftest=own)
    beside_pytest_vcr.record(plugins=("vcr",)).assert_outcomes(passed=1)
    assert (beside_pytest_vcr.path / "own" / "test_one.llmcost.yaml").exists()
    beside_pytest_vcr.run(plugins=("recording",)).assert_outcomes(passed=1)
