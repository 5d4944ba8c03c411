"""What every client has in common: a *way* is one client with one manner of being pointed at the registry."""

from dataclasses import dataclass
from typing import Protocol

from parts.edge import Edge
from parts.images import RUNNABLE_KINDS, Image

PREFIX = "docker-hub"
MIRRORED_HOST = "docker.io"


@dataclass(frozen=True)
class Pulled:
    """What the client says it holds now, from its own store: digest of the root, and of the config it runs."""

    root: str
    config: str


class Way(Protocol):
    """`pull` starts with nothing of the image in the client, and leaves nothing."""

    name: str
    kinds: tuple[str, ...]

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        """Pulls by "tag" or by "digest"; fails with what the client said."""


def suffix(image: Image, by: str) -> str:
    return f":{image.tag}" if by == "tag" else f"@{image.digest}"


def prefixed(edge: Edge, image: Image, by: str, prefix: str = PREFIX) -> str:
    """The reference through Headpond's own address; an empty prefix names the registry itself."""
    slash = "/" if prefix else ""
    return f"{edge.address}/{prefix}{slash}{image.repository}{suffix(image, by)}"


def mirrored(image: Image, by: str, host: str = MIRRORED_HOST) -> str:
    """The reference by the upstream's public name, as it stands in people's manifests."""
    return f"{host}/{image.repository}{suffix(image, by)}"


def expected(image: Image) -> Pulled:
    assert image.amd64.config is not None
    return Pulled(image.digest, image.amd64.config)


ALL_RUNNABLE = RUNNABLE_KINDS + ("umoci",)
