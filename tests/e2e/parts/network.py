"""Hosts on one machine: network namespaces on a bridge, which can be cut from each other while all reach this machine."""

import os
from dataclasses import dataclass

from parts.edge import Edge
from parts.process import free_port, run


@dataclass(frozen=True)
class Host:
    """Where a program runs: what to put before its command, and under which address it is reached from here."""

    address: str
    enter: tuple[str, ...] = ()

    def edge(self) -> Edge:
        return Edge(free_port(), host=self.address, connect_to=self.address)


THIS_HOST = Host("127.0.0.1")


class Network:
    """A bridge with this machine at `.1`. Cutting makes nothing fail: what is sent is never heard of again."""

    def __init__(self):
        # Names of interfaces are short, and another run of the suite may be under way.
        self.name = f"hp{os.getpid()}"
        self.subnet = f"10.89.{os.getpid() % 250}"
        self.address = f"{self.subnet}.1"
        self._hosts: list[str] = []
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def host(self) -> Host:
        number = len(self._hosts) + 2
        name, address = f"{self.name}n{number}", f"{self.subnet}.{number}"
        _ip("netns", "add", name)
        self._hosts.append(name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", self.name, "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return Host(address, ("ip", "netns", "exec", name))

    def cut(self) -> None:
        """No host reaches another one; all reach this machine, and it reaches them."""
        self._isolate("on")

    def heal(self) -> None:
        self._isolate("off")

    def _isolate(self, state: str) -> None:
        for name in self._hosts:
            _ip("link", "set", "dev", name, "type", "bridge_slave", "isolated", state)

    def stop(self) -> None:
        for name in self._hosts:
            _ip("netns", "delete", name)
        _ip("link", "delete", self.name)


def _ip(*arguments: str) -> None:
    run(["ip", *arguments])
