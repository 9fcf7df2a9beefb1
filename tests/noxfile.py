"""The plugin beside other versions and plugins: `nox -f tests/noxfile.py [-s lowest]`.

Each session installs the plugin with one set of versions and runs the tests that touch what differs
between them. `lowest` also runs in `.ci/run`.
"""

from __future__ import annotations

from pathlib import Path

import nox
import tomli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_TESTS = ["httpx>=0.27", "httpx2", "hypothesis>=6.100", "pytest-xdist>=3.6", "trio>=0.26"]
NEIGHBOURS = ["pytest-rerunfailures>=14", "pytest-socket>=0.7"]
TESTS = [
    f"tests/plugin/test_{name}.py" for name in ("capture_in_tests", "recording_modes", "marker")
]
# The outer run loads none of its plugins; pyproject.toml names some that are not installed here.
OUTER = ["-q", "-c", "/dev/null", "--rootdir", str(ROOT), "--import-mode=importlib"]
OUTER += ["-o", f"pythonpath={ROOT / 'tests'}", "-o", "xfail_strict=true", "-p", "no:cacheprovider"]
OUTER += [f"-pno:{name}" for name in ("llmcost", "recording", "socket", "rerunfailures")]

nox.options.default_venv_backend = "venv"
nox.options.envdir = str(ROOT / ".nox")
nox.options.error_on_missing_interpreters = False


def check(session: nox.Session, *packages: str, tests: list[str] = TESTS) -> None:
    """Install these versions and run the tests."""
    session.install(*FOR_TESTS, *packages)
    session.install("-e", str(ROOT), *packages)
    session.chdir(ROOT)
    session.run("pytest", *OUTER, *tests, *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Everything at its lower bound in pyproject.toml."""
    bounds = [each.replace(">=", "==") for each in PROJECT["dependencies"]]
    # Its version of pytest-recording cannot write a cassette with such a name itself.
    session.posargs.extend(["-k", "not long_names"])
    check(session, *bounds, *NEIGHBOURS)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def newest(session: nox.Session) -> None:
    """Everything at its newest version."""
    check(session, *NEIGHBOURS, tests=[*TESTS, "tests/plugin/test_xdist.py"])


@nox.session
@nox.parametrize("anthropic", ["==0.60.0", ">=0.60,<1", ">=1,<2", ">=2,<3"])
@nox.parametrize("vcrpy", [">=6.0.2,<7", ">=8.2,<9", ">=9,<10"])
def recording(session: nox.Session, anthropic: str, vcrpy: str) -> None:
    """Each SDK with each VCR."""
    if vcrpy.startswith(">=6") and anthropic.startswith((">=1", ">=2")):
        session.skip("vcrpy records httpx2, which this SDK uses, from 8.2 on")
    check(session, f"anthropic{anthropic}", f"vcrpy{vcrpy}", *NEIGHBOURS)


@nox.session
@nox.parametrize("pytest", ["==8.0.0", ">=8,<9", ">=9"])
def pytest_versions(session: nox.Session, pytest: str) -> None:
    """Each pytest."""
    more = [f"tests/plugin/test_{name}.py" for name in ("suite", "xdist")]
    check(session, f"pytest{pytest}", *NEIGHBOURS, tests=[*TESTS, *more])


@nox.session
def alone(session: nox.Session) -> None:
    """Without any other plugin: what it needs itself is enough to count and to replay."""
    session.install(str(ROOT))
    folder = session.create_tmp()
    session.run("cp", "-R", f"{ROOT}/docs/examples/triage/.", folder, external=True)
    session.chdir(folder)
    session.run("pytest", "-q", "-p", "no:recording")
