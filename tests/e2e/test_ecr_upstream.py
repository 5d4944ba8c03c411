"""A private ECR registry as the upstream: tokens by moto, and a docker-registry that takes nothing but the last one."""

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from parts import registry as registry_part
from parts.faketime import FakeTime
from parts.headpond import rules_for
from parts.images import build
from parts.moto import SECRET_KEY, EcrTokens, Moto, environment
from parts.process import wait_until
from parts.way import expected

pytestmark = pytest.mark.own_store
USERNAME = "AWS"
ROLE = "arn:aws:iam::222222222222:role/pull"


@dataclass
class Ecr:
    registry: registry_part.Guarded
    tokens: EcrTokens
    clock: FakeTime

    def accept(self, password: str) -> None:
        self.registry.set_user(USERNAME, password)

    def push(self, kind: str = "index"):
        return self.registry.push(build(kind))


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"{USERNAME}:{password}".encode()).decode()


@pytest.fixture
def ecr(tmp_path, moto: Moto) -> Iterator[Ecr]:
    clock = FakeTime(tmp_path)
    tokens = EcrTokens(moto, clock)
    registry = registry_part.Guarded(tmp_path / "ecr", USERNAME, "nobody has this one")
    made = Ecr(registry, tokens, clock)
    tokens.on_issue = made.accept
    yield made
    tokens.stop()
    registry.stop()


@pytest.fixture
def start(start_headpond, ecr: Ecr):
    def started(**more):
        rules = rules_for(ecr.registry.edge, credentials={"ecr": {"region": "eu-west-1", **more}}, anonymous=True)
        return start_headpond(rules, env=environment(ecr.tokens.url) | ecr.clock.env, log={"level": "trace"})

    return started


def reads(headpond) -> float:
    return headpond.total("headpond_credential_reads_total", source="ecr", outcome="read")


@pytest.mark.parametrize("name", ["skopeo", "ctr_hosts_toml_ns"])
def test_image_of_ecr_is_pulled_with_a_token_of_headponds(start, clients, ecr, name):
    image = ecr.push()
    headpond = start()

    for by in ("tag", "tag", "digest"):
        assert clients.ways[name].pull(headpond.edge, image, by) == expected(image)

    assert len(ecr.tokens.issued) == 1
    # The challenge of the first request, and no other.
    assert ecr.registry.refusals() == 1


def test_token_is_renewed_before_its_end_without_a_failed_pull(start, clients, ecr):
    images = [ecr.push("single") for _ in range(4)]
    headpond = start()
    pull = clients.ways["skopeo"].pull
    assert pull(headpond.edge, images[0], "tag") == expected(images[0])
    # The next token is held back, and the one at hand is taken until then.
    let_go = threading.Event()
    ecr.tokens.on_issue = lambda password: let_go.wait(30) and ecr.accept(password)

    ecr.clock.advance(hours=10)
    assert headpond.get(f"/v2/{images[1].repository}/manifests/{images[1].tag}").digest == images[1].digest
    let_go.set()
    wait_until(lambda: reads(headpond) == 2, "the token is renewed")

    ecr.clock.advance(hours=3)
    assert pull(headpond.edge, images[2], "tag") == expected(images[2])
    assert reads(headpond) == 2

    # A night without a pull: the token at hand is over, and is not even tried.
    ecr.clock.advance(hours=20)
    assert pull(headpond.edge, images[3], "tag") == expected(images[3])
    assert reads(headpond) == 3
    assert ecr.registry.refusals() == 1


def test_role_is_assumed_for_a_registry_of_another_account(start, clients, ecr):
    image = ecr.push()
    headpond = start(role=ROLE)

    assert clients.ways["skopeo"].pull(headpond.edge, image, "tag") == expected(image)
    # moto puts the account of who asks into the password.
    assert ecr.tokens.issued == ["222222222222-auth-token-1"]


def test_no_token_and_no_key_is_in_a_log_at_trace(start, ecr):
    image = ecr.push()
    headpond = start(role=ROLE)
    for manifest in image.manifests:
        assert headpond.get(f"/v2/{image.repository}/manifests/{manifest.digest}").status == 200

    log = "\n".join(headpond.log_lines())
    assert "TRACE" in log
    secrets = [SECRET_KEY, *ecr.tokens.issued, *(basic(password).split()[1] for password in ecr.tokens.issued)]
    assert [secret for secret in secrets if secret in log] == []
