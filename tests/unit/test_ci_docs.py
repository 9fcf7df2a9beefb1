"""The workflow files of the pages on CI are what they should be, as far as tools can tell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project
from sample_reports import a_test, make_call, make_report
from standin import StandIn
from warm_python import warm_bin

from pytest_llmcost.ledger.ledger import write_ledger

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("start.md", *(f"how-to/{name}.md" for name in ("gate-a-pull-request", "shards", "gitlab")))
BLOCKS: list[str] = [
    block
    for page in PAGES
    for block in re.findall(
        r"^```yaml\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
]
GITHUB = [block for block in BLOCKS if "\njobs:\n" in block]
GITLAB = [block for block in BLOCKS if block not in GITHUB]


def scripts(node: object) -> Iterator[str]:
    """Every piece of shell in a workflow."""
    if isinstance(node, Mapping):
        if isinstance(node.get("run"), str):
            yield node["run"]
        script = node.get("script")
        yield from script if isinstance(script, list) else ()
    children = node.values() if isinstance(node, Mapping) else node
    for child in children if not isinstance(node, str) and hasattr(children, "__iter__") else ():
        yield from scripts(child)


def test_there_are_workflows_for_both_forges() -> None:
    assert len(GITHUB) == 5
    assert len(GITLAB) == 1


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_yaml_with_shell_that_parses(block: str) -> None:
    found = list(scripts(yaml.safe_load(block)))
    assert found
    for script in found:
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("block", GITHUB)
def test_no_workflow_puts_foreign_text_into_its_shell(block: str) -> None:
    assert not [script for script in scripts(yaml.safe_load(block)) if "${{" in script]


def test_a_workflow_by_hand_clears_the_way_for_all_that_the_action_does() -> None:
    """gh replaces no file, and the page may be added to each of them."""
    action = DOCS.parent / ".github/actions/llmcost/run.sh"
    removed = [
        re.findall(r"rm -f {folder}/(\S+);", text)
        for text in (action.read_text(encoding="utf-8"), *GITHUB)
    ]
    assert [each for each in removed if each] == [
        ["{baseline.json,cost.json,cost.md,cost.html}"]
    ] * 3


@pytest.mark.parametrize("block", GITHUB)
def test_no_workflow_has_more_rights_than_it_needs(block: str) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(block)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "pull_request_target" not in block
    assert "secrets." not in block


@pytest.mark.parametrize(
    ("schema", "blocks"), [("github-workflows", GITHUB), ("gitlab-ci", GITLAB)]
)
def test_every_block_keeps_to_its_forges_schema(
    schema: str, blocks: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yml").write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    checked = subprocess.run([*command, *tmp_path.iterdir()], text=True, capture_output=True)
    assert checked.returncode == 0, checked.stdout


def starts(rules: list[Mapping[str, str]], known: Mapping[str, str]) -> bool:
    """Whether GitLab takes a job or a pipeline in: by its first rule that holds."""

    def value(text: str) -> str:
        return known.get(text[1:], "") if text.startswith("$") else text.strip('"')

    for rule in rules:
        one, two = rule["if"].split(" == ")
        if value(one) == value(two):
            return rule.get("when") != "never"
    return False


@pytest.mark.parametrize(
    ("pipeline", "jobs"),
    [
        ({"CI_PIPELINE_SOURCE": "merge_request_event"}, {"test", "cost"}),
        ({"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"}, {"test", "cost"}),
        ({"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "topic"}, set()),
    ],
    ids=["merge request", "default branch", "other branch"],
)
def test_gitlab_runs_the_shards_wherever_it_adds_them_up(
    pipeline: Mapping[str, str], jobs: set[str]
) -> None:
    """A job without rules is left out for merge requests, unless the pipeline has rules.

    Source: https://docs.gitlab.com/ci/jobs/job_rules/ and `Entry::Processable#compose!` of GitLab.
    """
    known = {"CI_DEFAULT_BRANCH": "main", **pipeline}
    (recipe,) = map(yaml.safe_load, GITLAB)
    of_all = recipe.get("workflow", {}).get("rules")
    by_default = "CI_COMMIT_BRANCH" in known if of_all is None else starts(of_all, known)
    started = {
        name
        for name, job in recipe.items()
        if "script" in job
        and (starts(job["rules"], known) if "rules" in job else by_default)
        and (of_all is None or by_default)
    }
    assert started == jobs


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
@pytest.mark.parametrize("block", GITHUB)
def test_every_workflow_passes_the_linter(block: str) -> None:
    checked = subprocess.run(["actionlint", "-"], input=block, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_every_run_of_pytest_has_a_key_to_replay_with(block: str) -> None:
    """Clients of the SDK do not start without one, and a fork has no secret."""
    runs = [
        script for script in scripts(yaml.safe_load(block)) if re.search(r"\bpytest\b(?!-)", script)
    ]
    assert not runs or "ANTHROPIC_API_KEY: not-used" in block


@pytest.mark.parametrize("block", [block for block in GITHUB if "restore-keys" in block])
def test_no_workflow_takes_another_suites_baseline_by_the_beginning_of_its_key(block: str) -> None:
    keys = re.findall(r"^ +(?:restore-)?keys?: (.*)$", block, re.MULTILINE)
    assert {key.partition("@")[0] for key in keys} == {"llmcost-baseline"}
    assert {key.partition("@")[2] for key in keys} == {"", "${{ github.sha }}"}


def adding_up() -> Iterator[str]:
    """What adds up the shards, of each forge."""
    for block in map(yaml.safe_load, BLOCKS):
        for step in block.get("jobs", {}).get("cost", {}).get("steps", ()):
            if step.get("name") == "Add up":
                yield step["run"]
        if lines := block.get("cost", {}).get("script"):
            first = next(at for at, line in enumerate(lines) if "llmcost merge" in line)
            yield "\n".join((*lines[1 : first + 1], lines[-1]))


@pytest.mark.parametrize("script", [*adding_up()], ids=["GitHub", "GitLab"])
@pytest.mark.parametrize("shards", [4, 3])
def test_only_the_sum_of_all_shards_can_become_the_baseline(
    tmp_path: Path, script: str, shards: int
) -> None:
    """A job that passed may have written no ledger; both forges keep what a job that passed has."""
    for number in range(shards):
        part = make_report({a_test(f"t.py::{number}"): [make_call("0.1")]}, incomplete=["selected"])
        write_ledger(part, tmp_path / "shards" / f"{number}.json")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PATH": f"{warm_bin()}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert "merged" in done.stdout, done.stderr
    assert (done.returncode == 0) is (shards == 4)


@pytest.mark.parametrize(
    ("answer", "token", "sent", "status", "said"),
    [
        ("200", "", "JOB-TOKEN: job", 1, "over the"),
        ("200", "ours", "PRIVATE-TOKEN: ours", 1, "over the"),
        ("404", "", "JOB-TOKEN: job", 0, "nothing is compared"),
        ("401", "expired", "PRIVATE-TOKEN: expired", 1, "could not be fetched (401)"),
    ],
)
def test_gitlab_compares_with_a_baseline_or_says_why_not(
    tmp_path: Path, answer: str, token: str, sent: str, status: int, said: str
) -> None:
    for name, tests in (("found", "a"), ("cost", "ab")):
        report = make_report({a_test(f"t.py::{each}"): [make_call("0.1")] for each in tests})
        write_ledger(report, tmp_path / f"{name}.json")
    (tmp_path / "curl").write_text(
        f'#!/bin/sh\necho "$@" > sent\ncp found.json base.json\nprintf {answer}\n'
    )
    (tmp_path / "curl").chmod(0o755)
    (block,) = map(yaml.safe_load, GITLAB)
    (step,) = (each for each in block["cost"]["script"] if "llmcost compare" in each)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", f"{step}\nexit ${{failed:-0}}"],
        cwd=tmp_path, text=True, capture_output=True,
        env={"PATH": os.pathsep.join((str(tmp_path), str(warm_bin()), os.environ["PATH"])),
             "CI_MERGE_REQUEST_IID": "7", "CI_JOB_TOKEN": "job", "LLMCOST_TOKEN": token},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert said in done.stdout
    assert f"--header {sent} " in (tmp_path / "sent").read_text()


GH = """# GitHub's command line, as far as the workflow of the comment uses it.
import json, os, re, shutil, subprocess, sys

words, state = sys.argv[1:], json.load(open(os.environ["STATE"]))
if words[:2] == ["run", "download"]:
    sys.exit(shutil.copytree(os.environ["ARTIFACT"], "llmcost") != "llmcost")
url = next(each for each in words if each.startswith("repos/"))
fields = dict(each.split("=", 1) for each in words if re.match("[a-z]+=", each))
if "POST" in words or "PATCH" in words:
    body = open(fields["body"][1:]).read()
    state["written"] = [*state["written"], [url, body]]
    json.dump(state, open(os.environ["STATE"], "w"))
    sys.exit()
if url.endswith("/pulls"):
    answer = [each for each in state["pulls"] if each["head"]["label"] == fields["head"]]
else:
    answer = state["comments"]
jq = ["jq", "-r", words[words.index("--jq") + 1]]
sys.exit(subprocess.run(jq, input=json.dumps(answer), text=True).returncode)
"""
COMMENT = next(block for block in GITHUB if "workflow_run:" in block)
NEW, EDITED = "repos/o/r/issues/7/comments", "repos/o/r/issues/comments/5"
OURS = {"id": 5, "user": {"login": "github-actions[bot]"}, "body": "<!-- pytest-llmcost -->\nold"}


def a_pull(number: int, sha: str = "new") -> dict[str, Any]:
    return {"number": number, "head": {"label": "fork:topic", "sha": sha}}


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(
    ("comparison", "conclusion", "comments", "pulls", "written"),
    [
        ({"change_usd": "0.1"}, "success", [], [a_pull(7)], NEW),
        ({"change_usd": "-0.1"}, "success", [], [a_pull(7)], ""),
        ({"change_usd": None}, "success", [], [a_pull(7)], ""),
        (None, "success", [], [a_pull(7)], ""),
        (None, "failure", [], [a_pull(7)], NEW),
        ({"change_usd": "0", "vanished": [{}]}, "success", [], [a_pull(7)], NEW),
        ({"change_usd": "0", "vanished": []}, "success", [], [a_pull(7)], ""),
        ({"change_usd": "0"}, "success", [OURS], [a_pull(7)], EDITED),
        ({"change_usd": "0"}, "success", [OURS, {**OURS, "id": 6}], [a_pull(7)], EDITED),
        ({"change_usd": "0.1"}, "success", [OURS], [a_pull(7, "newer")], ""),
        ({"change_usd": "0.1"}, "success", [], [a_pull(7), a_pull(9)], ""),
        ({"change_usd": "0.1"}, "success", [], [a_pull(9, "newer"), a_pull(7)], NEW),
        ({"change_usd": "0.1"}, "success", [], [], ""),
    ],
    ids=[
        *("adds", "saves", "unknown", "no baseline", "failed", "guard vanished", "none vanished"),
        *("update", "two of ours", "older commit", "two pull requests", "one of them older"),
        "closed",
    ],
)  # fmt: skip
def test_the_second_workflow_comments_on_the_pull_request_and_commit_of_its_run(
    tmp_path: Path,
    comparison: object,
    conclusion: str,
    comments: list[object],
    pulls: list[object],
    written: str,
) -> None:
    state, artifact = tmp_path / "state.json", tmp_path / "artifact"
    state.write_text(json.dumps({"pulls": pulls, "comments": comments, "written": []}))
    artifact.mkdir()
    (artifact / "cost.json").write_text(json.dumps({"comparison": comparison}))
    (artifact / "cost.md").write_text("what it costs")
    (tmp_path / "gh").write_text(f"#!{sys.executable} -IS\n{GH}")
    (tmp_path / "gh").chmod(0o755)
    output = tmp_path / "output"
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_OUTPUT": str(output),
        "STATE": str(state), "ARTIFACT": str(artifact), "GH_REPO": "o/r", "RUN": "1",
        "CONCLUSION": conclusion, "HEAD": "fork:topic", "COMMIT": "new",
    }  # fmt: skip
    for script in scripts(yaml.safe_load(COMMENT)):
        subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert output.read_text() == "found=true\n"
    expected = [[written, "what it costs"]] if written else []
    assert json.loads(state.read_text())["written"] == expected


def test_an_artifact_without_a_comment_is_none(tmp_path: Path) -> None:
    """A run that could not import a conftest has kept the baseline that it fetched, and no more."""
    (tmp_path / "gh").write_text("#!/bin/sh\nmkdir llmcost && touch llmcost/baseline.json\n")
    (tmp_path / "gh").chmod(0o755)
    output = tmp_path / "output"
    output.touch()
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "GITHUB_OUTPUT": str(output), "RUN": "1"}
    fetch, _ = scripts(yaml.safe_load(COMMENT))
    subprocess.run(["bash", "-e", "-c", fetch], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "llmcost").exists()
    assert output.read_text() == ""


REPLAYED = """
    import anthropic
    import pytest
    from pytest_llmcost import max_cost

    @pytest.fixture(scope="module")
    def vcr_config():
        return {"filter_headers": ["authorization", "x-api-key"]}

    @pytest.mark.vcr
    @max_cost("$0.01")
    def test_replayed():
        with anthropic.Anthropic(max_retries=0) as client:
            assert client.messages.create(
                model="claude-opus-4-7", max_tokens=9, messages=[{"role": "user", "content": "a"}])
"""


def runs_of_pytest(workflow: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Every piece of shell that runs pytest without further plugins, with its environment."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if re.search(r"^\s*pytest\b(?!.*--splits)", step.get("run", ""), re.MULTILINE):
                yield step["run"], {**job.get("env", {}), **step.get("env", {})}


def test_a_suite_that_replays_passes_with_every_recipe_as_it_stands(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(test_app=REPLAYED)
    project.run("--record-mode=once", plugins=("recording",)).assert_outcomes(passed=1)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p llmcost -p recording")
    monkeypatch.setenv("PATH", str(warm_bin()), prepend=os.pathsep)
    runs = [run for block in GITHUB for run in runs_of_pytest(yaml.safe_load(block))]
    assert len(runs) == 3
    for script, environment in runs:
        done = subprocess.run(
            ["bash", "-e", "-c", script], env={**os.environ, **environment}, cwd=project.path,
            text=True, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(standin.requests) == 1, "only the recording was sent"


PAGES_WITH_SETTINGS = [
    page
    for page in sorted((DOCS.parent / "README.md", *DOCS.rglob("*.md")))
    if "[tool.pytest" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES_WITH_SETTINGS, ids=lambda page: page.stem)
def test_settings_are_shown_for_pyproject_toml_first(page: Path) -> None:
    forms = re.findall(
        r"\[tool\.pytest[.\w]*\]|^\[pytest\]", page.read_text(encoding="utf-8"), re.M
    )
    assert forms[0] == "[tool.pytest.ini_options]"
