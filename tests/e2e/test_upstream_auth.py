"""Upstreams that want a login: TLS with htpasswd, and bearer tokens. Headpond holds the credentials, clients none."""

from collections.abc import Iterator

import pytest

from parts import registry as registry_part
from parts import token_server as token_server_part
from parts.crowd import at_once
from parts.edge import request
from parts.headpond import rules_for
from parts.images import Image, build
from parts.registry import PASSWORD, USERNAME, Registry
from parts.token_server import ISSUER, SERVICE, TokenServer
from parts.way import expected

CREDENTIALS = {"username": USERNAME, "password": "env:UPSTREAM_PASSWORD"}
ENVIRONMENT = {"UPSTREAM_PASSWORD": PASSWORD}
NAMES = ["skopeo", "ctr_hosts_toml_ns", "cri", "podman_prefix", "docker_registry_mirrors", "buildah"]


@pytest.fixture(scope="module")
def guarded(workspace, authority) -> Iterator[Registry]:
    started = registry_part.behind_tls_and_password(workspace / "guarded", authority)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def tokens(workspace, authority) -> Iterator[TokenServer]:
    folder = workspace / "tokens"
    folder.mkdir()
    server = TokenServer(authority.issue("signer", folder))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tokened(workspace, tokens: TokenServer) -> Iterator[Registry]:
    folder = workspace / "tokens"
    started = registry_part.behind_tokens(folder, tokens.realm, SERVICE, ISSUER, folder / "signer.crt")
    yield started
    started.stop()


def push_with_token(registry: Registry, tokens: TokenServer, image: Image) -> Image:
    token = tokens.issue([f"repository:{image.repository}:pull,push"])
    return registry.push(image, f"Bearer {token}")


def seen_of(registry: Registry, image: Image) -> list[tuple[str, str]]:
    return [(method, path) for method, path in registry.pulls_seen() if image.repository in path]


def check_cold_and_warm(way, headpond, registry: Registry, image: Image) -> None:
    assert way.pull(headpond.edge, image, "tag") == expected(image)
    cold = seen_of(registry, image)
    assert cold
    assert way.pull(headpond.edge, image, "tag") == expected(image)
    assert way.pull(headpond.edge, image, "digest") == expected(image)
    assert seen_of(registry, image) == cold


@pytest.mark.parametrize("name", NAMES)
def test_image_behind_tls_and_password_is_pulled_with_headponds_login(start_headpond, clients, guarded, name):
    rules = rules_for(guarded.edge, credentials=CREDENTIALS, anonymous=True)
    headpond = start_headpond(rules, env=ENVIRONMENT)

    check_cold_and_warm(clients.ways[name], headpond, guarded, guarded.push(build("index")))


@pytest.mark.parametrize("name", NAMES)
def test_image_behind_tokens_is_pulled_with_headponds_login(start_headpond, clients, tokens, tokened, name):
    rules = rules_for(tokened.edge, credentials=CREDENTIALS, anonymous=True)
    headpond = start_headpond(rules, env=ENVIRONMENT)

    check_cold_and_warm(clients.ways[name], headpond, tokened, push_with_token(tokened, tokens, build("index")))


def test_many_clients_of_one_repository_cost_one_token(start_headpond, tokens, tokened):
    headpond = start_headpond(rules_for(tokened.edge, credentials=CREDENTIALS, anonymous=True), env=ENVIRONMENT)
    image = push_with_token(tokened, tokens, build("index"))
    before = len(tokens.issued)

    paths = [f"/v2/{image.repository}/manifests/{manifest.digest}" for manifest in image.manifests]
    answers = at_once([lambda path=path: headpond.get(path) for path in paths * 6])

    assert {answer.status for answer in answers} == {200}
    assert tokens.issued[before:] == [[f"repository:{image.repository}:pull"]]


@pytest.mark.parametrize("credentials", [None, {"username": USERNAME, "password": "env:WRONG_PASSWORD"}])
def test_refused_login_is_never_forwarded_to_the_client(start_headpond, guarded, credentials):
    image = guarded.push(build("single"))
    more = {"credentials": credentials} if credentials else {}
    headpond = start_headpond(rules_for(guarded.edge, anonymous=True, **more), env={"WRONG_PASSWORD": "wrong"})

    answer = headpond.get(f"/v2/{image.repository}/manifests/{image.tag}")

    assert answer.status == (403 if credentials else 404)
    assert "WWW-Authenticate" not in answer.headers


def test_private_content_is_not_given_to_anonymous_clients(start_secure_headpond, guarded):
    """A rule with credentials and no `anonymous: true`: one login must not publish what it can see."""
    rules = rules_for(guarded.edge, credentials=CREDENTIALS)
    headpond = start_secure_headpond(rules, env=ENVIRONMENT)
    headpond.settings["auth"]["anonymous"] = {"pull": True}
    assert headpond.stop() == 0
    headpond.start()
    image = guarded.push(build("single"))
    path = f"/v2/{image.repository}/manifests/{image.tag}"

    anonymous = headpond.edge.logged_in(None)
    assert request(anonymous, path).status == 401
    assert headpond.get(path).digest == image.digest
    assert request(anonymous, path).status == 401
