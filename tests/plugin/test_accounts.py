"""An AWS account id in the name of a model reaches no file, report or message of ours."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

ACCOUNT = "123456789012"
APP = f"""
    import anthropic
    import httpx2

    PROFILE = "arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/abc123"
    ASKED = dict(model=PROFILE, max_tokens=9, messages=[{{"role": "user", "content": "Hi"}}])

    def answer(request):
        return httpx2.Response(200, json={{
            "id": "msg_1", "type": "message", "role": "assistant", "content": [],
            "usage": {{"input_tokens": 1000, "output_tokens": 100}}}})

    def ask():
        anthropic.AnthropicBedrock(
            aws_access_key="a", aws_secret_key="b", aws_region="us-east-1",
            http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        ).messages.create(**ASKED)
"""


def everything(project: Project, result: pytest.RunResult) -> str:
    """Return all that a run has printed and written, but for the user's own files."""
    written = [
        path.read_text(encoding="utf-8")
        for path in project.path.rglob("*")
        if path.suffix in (".json", ".md", ".xml", ".yaml")
    ]
    return "\n".join([result.stdout.str(), result.stderr.str(), *written])


@pytest.mark.parametrize("limit", ["$0.000001", "$1"])
def test_of_an_inference_profile_only_its_id_is_told(project: Project, limit: str) -> None:
    pytest.importorskip("botocore")
    project.write(
        app=APP,
        test_app=f"""
        from app import ask
        from pytest_llmcost import max_cost

        @max_cost("{limit}")
        def test_a():
            ask()
        """,
    )
    result = project.run(
        "--llmcost-report=r.json", "--llmcost-report=r.md", "--junitxml=j.xml", "-rA"
    )
    said = everything(project, result)
    assert result.parseoutcomes() == {"failed": 1}  # without a price file it has no price
    assert ACCOUNT not in said
    assert "us-east-1:ACCOUNT:application-inference-profile/abc123" in said


def test_nor_do_its_counts_and_the_apis_own_words(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        from app import ASKED

        def test_a(llmcost):
            assert llmcost.count(ASKED).usage.input_tokens
        """,
    )
    result = project.run("--llmcost-record-mode=once", "--llmcost-report=r.json", "-rA")
    said = everything(project, result)
    assert ACCOUNT not in said
    assert "application-inference-profile/abc123" in said
