"""Two real registries with the same images, and one of them dies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from parts import images
from parts.headpond import rules_for
from parts.images import Image
from parts.proxy import Proxy
from parts.registry import Registry, plain
from parts.way import expected

LAYER_BYTES = 24_000_000
# Of a blob, what all registries together may send.
MOST = 1.02


class Source:
    """A registry, and what stands before it to count."""

    def __init__(self, folder: Path, cleanup: ExitStack):
        self.registry: Registry = plain(folder)
        cleanup.callback(self.registry.stop)
        self.proxy = Proxy(self.registry.edge)
        cleanup.callback(self.proxy.stop)

    def kill(self) -> None:
        """As when its machine dies: what is under way breaks, and there is nobody any more."""
        self.registry.process.kill()
        self.proxy.refuse()


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[list[Source]]:
    with ExitStack() as cleanup:
        yield [Source(tmp_path / name, cleanup) for name in ("primary", "first-mirror", "second-mirror")]


def publish(sources: list[Source]) -> Image:
    image = images.build("single", layer_bytes=LAYER_BYTES)
    for source in sources:
        source.registry.push(image)
    return image


def rules(sources: list[Source], **more) -> list[dict]:
    primary, *mirrors = sources
    return rules_for(primary.proxy.edge, mirrors=[mirror.proxy.edge.url for mirror in mirrors], **more)


def pull_while_dying(image: Image, dying: Source, pull: Callable[[], object]) -> object:
    """What `pull` gives while a registry is killed, once half of the largest blob is through."""
    layer = image.largest_blob
    gate = dying.proxy.hold_bodies(layer, len(image.blobs[layer]) // 2)
    result: list[object] = []
    client = threading.Thread(target=lambda: result.append(pull()))
    client.start()
    assert gate.reached.wait(60), "the blob was not asked for"
    dying.kill()
    client.join(120)
    assert result, "the pull failed, or did not come to an end"
    return result[0]


def sent(sources: list[Source], digest: str) -> int:
    return sum(source.proxy.journal.body_bytes(digest) for source in sources)


@pytest.mark.parametrize("dying", ["upstream", "mirror"])
def test_blob_of_a_registry_that_is_killed_goes_on_at_the_next(start_headpond, clients, sources, dying):
    primary, mirror, _ = sources
    image = publish(sources)
    headpond = start_headpond(rules(sources))
    way = clients.ways["skopeo"]
    if dying == "mirror":
        primary.kill()

    victim = primary if dying == "upstream" else mirror
    pulled = pull_while_dying(image, victim, lambda: way.pull(headpond.edge, image, "tag"))

    assert pulled == expected(image)
    layer = image.largest_blob
    assert sent(sources, layer) <= MOST * len(image.blobs[layer])


def test_mirror_that_is_behind_never_turns_back_a_tag(start_headpond, sources):
    primary, mirror, _ = sources
    old = publish(sources)
    new = images.build("single", repository=old.repository, tag=old.tag)
    primary.registry.push(new)
    headpond = start_headpond(rules(sources, freshness={"default": "0s"}))
    path = f"/v2/{old.repository}/manifests/{old.tag}"
    assert headpond.get(path).digest == new.digest

    primary.kill()

    for _ in range(5):
        assert headpond.get(path).digest == new.digest
    assert mirror.proxy.journal.count(part=f"/manifests/{old.tag}") == 0
