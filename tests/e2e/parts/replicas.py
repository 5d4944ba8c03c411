"""Replicas over one bucket, each on a host of its own, with an upstream that all of them reach."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from parts.ceph import Gateway
from parts.headpond import Headpond, rules_for
from parts.network import Network
from parts.process import wait_until
from parts.proxy import Proxy
from parts.stores import Store

TOKEN_KEY = "a key that all replicas share, longer than thirty-two bytes"


class Replicas:
    """`peers` says of which replicas each one knows, by number; all know all unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        gateway: Gateway,
        proxy: Proxy,
        prefix: str,
        count: int = 3,
        peers: Callable[[int], list[int]] | None = None,
        max_size: str = "4GiB",
        connections: int = 1,
        **settings,
    ):
        self.proxy = proxy
        settings = {"auth": {"token_key": "env:E2E_TOKEN_KEY"}, **settings}
        self.all: list[Headpond] = []
        for number in range(count):
            own = folder / f"replica-{number}"
            store = Store(own / "store", gateway.bucket, prefix, max_size=max_size)
            env = {"E2E_TOKEN_KEY": TOKEN_KEY}
            rules = rules_for(proxy.edge, connections=connections)
            self.all.append(Headpond(own, rules, store, env, network.host(), **settings))
        # All at one port, as in a cluster: a server takes its peers at a port that it listens on itself.
        for one in self.all:
            one.edge = replace(one.edge, port=self.all[0].edge.port)
            one.settings["listen"] = one.edge.address
        addresses = [one.edge.address for one in self.all]
        for number, one in enumerate(self.all):
            known = peers(number) if peers else range(count)
            one.settings["cluster"] = {"peers": [addresses[other] for other in known]}

    def start(self) -> "Replicas":
        for one in self.all:
            one.start()
        return self

    @property
    def store(self) -> Store:
        """The part of it that all share."""
        return self.all[0].store

    def spread(self, clients: int) -> list[Headpond]:
        """For each client the replica it talks to."""
        return [self.all[number % len(self.all)] for number in range(clients)]

    def quiet(self) -> None:
        for one in self.all:
            one.quiet()

    def filling_from_upstream(self, part: str) -> Headpond:
        """The replica whose request for it is the oldest the upstream has seen."""
        seen = wait_until(lambda: self.proxy.journal.all("GET", part), f"{part} is asked for upstream")
        return next(one for one in self.all if one.host.address == seen[0].client)

    def stop(self) -> None:
        for one in self.all:
            one.stop()
        self.store.clear()
