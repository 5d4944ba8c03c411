"""A secret of Secrets Manager, in the form that ECR's pull-through cache has, rotated while Headpond runs."""

import base64
import json
import secrets
from collections.abc import Iterator

import pytest

from parts import registry as registry_part
from parts.headpond import rules_for
from parts.images import build
from parts.moto import SECRET_KEY, Moto, environment
from parts.way import expected

pytestmark = pytest.mark.own_store
USERNAME = "robot"


@pytest.fixture
def upstream(tmp_path) -> Iterator[registry_part.Guarded]:
    started = registry_part.Guarded(tmp_path / "upstream", USERNAME, f"first-{secrets.token_hex(8)}")
    yield started
    started.stop()


class Secret:
    def __init__(self, moto: Moto, password: str):
        self.client = moto.secrets
        name = f"ecr-pullthroughcache/{secrets.token_hex(6)}"
        self.arn = self.client.create_secret(Name=name, SecretString=self.text(password))["ARN"]

    @staticmethod
    def text(password: str) -> str:
        return json.dumps({"username": USERNAME, "accessToken": password})

    def rotate(self, password: str) -> None:
        self.client.put_secret_value(SecretId=self.arn, SecretString=self.text(password))

    def delete(self) -> None:
        self.client.delete_secret(SecretId=self.arn, RecoveryWindowInDays=7)


def reads(headpond, outcome: str) -> float:
    return headpond.total("headpond_credential_reads_total", source="secrets_manager", outcome=outcome)


def test_next_pull_after_the_old_password_died_succeeds_without_a_restart(start_headpond, clients, moto, upstream):
    images = [upstream.push(build("single")) for _ in range(4)]
    old, new = upstream.edge.password, f"second-{secrets.token_hex(8)}"
    secret = Secret(moto, old)
    rules = rules_for(upstream.edge, credentials=secret.arn, anonymous=True)
    headpond = start_headpond(rules, env=environment(moto.url), log={"level": "trace"})
    pull = clients.ways["skopeo"].pull
    assert pull(headpond.edge, images[0], "tag") == expected(images[0])
    assert pull(headpond.edge, images[1], "tag") == expected(images[1])
    assert (reads(headpond, "read"), upstream.refusals()) == (1, 1)

    secret.rotate(new)
    upstream.set_user(USERNAME, new)
    assert pull(headpond.edge, images[2], "tag") == expected(images[2])
    assert clients.ways["ctr_hosts_toml_ns"].pull(headpond.edge, images[3], "tag") == expected(images[3])
    # The old password was tried once more, and no more.
    assert (reads(headpond, "read"), upstream.refusals()) == (2, 2)

    log = "\n".join(headpond.log_lines())
    pairs = [base64.b64encode(f"{USERNAME}:{password}".encode()).decode() for password in (old, new)]
    assert "TRACE" in log and "has other credentials now" in log
    assert [text for text in (old, new, SECRET_KEY, *pairs) if text in log] == []


def test_secret_scheduled_for_deletion_is_told_with_what_to_do(start_headpond, moto, upstream):
    image = upstream.push(build("single"))
    secret = Secret(moto, upstream.edge.password)
    secret.delete()
    rules = rules_for(upstream.edge, credentials=secret.arn, anonymous=True)
    headpond = start_headpond(rules, env=environment(moto.url))

    answer = headpond.get(f"/v2/{image.repository}/manifests/{image.tag}")

    assert answer.status >= 500
    # The operator's log says what to do; clients learn no names of the account.
    assert b"log says why" in answer.body and secret.arn.encode() not in answer.body
    assert headpond.log_lines("restore-secret")
    assert reads(headpond, "refused") == 1
