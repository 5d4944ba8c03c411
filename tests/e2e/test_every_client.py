"""Every client pulls every kind of image that it can hold, over plain HTTP and over TLS with a password.

Artifacts have no layers to unpack: skopeo and `ctr content fetch` stand in for the clients that refuse them, whoever
serves them; test_plain_http.py asks for their bytes. dockerd 20.10 unpacks no zstd.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from parts import headpond as headpond_part
from parts import ways
from parts.edge import Edge
from parts.headpond import Headpond, SecureHeadpond
from parts.process import CommandFailed
from parts.proxy import Proxy, in_front_of
from parts.way import expected

MATRIX = [(way.name, kind) for way in ways.WAYS for kind in way.kinds]


@dataclass(frozen=True)
class Front:
    headpond: Headpond
    proxy: Proxy

    def edge(self, name: str) -> Edge:
        if isinstance(self.headpond, SecureHeadpond):
            return ways.secure_edge(self.headpond, name)
        return self.headpond.edge


@pytest.fixture(scope="module", params=["plain", "tls"])
def front(request, make_headpond, registry, authority) -> Iterator[Front]:
    with in_front_of(registry.edge) as proxy:
        rules = headpond_part.rules_for(proxy.edge)
        made = make_headpond(rules, authority=authority if request.param == "tls" else None)
        made.start()
        yield Front(made, proxy)
        made.stop()


@pytest.mark.parametrize(("name", "kind"), MATRIX)
def test_client_pulls_cold_and_then_warm_without_the_upstream(front: Front, clients, publish, name, kind):
    image = publish(kind)
    way, edge, journal = clients.ways[name], front.edge(name), front.proxy.journal

    assert way.pull(edge, image, "tag") == expected(image)

    fetched = journal.by_path()
    assert set(image.amd64.layers) <= {path.rpartition("/")[2] for method, path in fetched if method == "GET"}
    twice = {key: count for key, count in fetched.items() if image.repository in key[1] and count > 1}
    assert not twice
    cold = journal.count(part=image.repository)

    assert way.pull(edge, image, "tag") == expected(image)
    assert way.pull(edge, image, "digest") == expected(image)
    assert journal.count(part=image.repository) == cold


@pytest.mark.parametrize("name", ways.NAMES)
def test_client_pulls_cold_by_digest(front: Front, clients, publish, name):
    image = publish("index")

    assert clients.ways[name].pull(front.edge(name), image, "digest") == expected(image)


@pytest.mark.parametrize("front", ["tls"], indirect=True)
@pytest.mark.parametrize("name", ways.NAMES)
@pytest.mark.parametrize("password", [None, "wrong"])
def test_client_without_the_right_password_gets_nothing(front: Front, clients, publish, name, password):
    image = publish()
    right = front.edge(name)
    edge = right.logged_in(right.username if password else None, password)

    with pytest.raises(CommandFailed):
        clients.ways[name].pull(edge, image, "tag")
    assert front.proxy.journal.count(part=image.repository) == 0


def test_busybox_pulled_through_headpond_runs_in_containerd(front: Front, clients, publish):
    image = publish("umoci")
    way = clients.ways["ctr_hosts_toml_ns"]

    assert way.run(front.edge(way.name), image, "/bin/busybox", "echo", "it", "runs") == "it runs\n"
