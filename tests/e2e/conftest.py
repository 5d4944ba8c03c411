"""Fixtures: the parts shared by the whole suite, and makers of those a test has to itself."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parts import headpond as headpond_part
from parts import images, umoci
from parts import registry as registry_part
from parts.container import ContainerImage
from parts.headpond import Headpond, SecureHeadpond
from parts.images import Image
from parts.proxy import Proxy
from parts.registry import Registry
from parts.tls import Authority
from parts.ways import Clients


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("e2e")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def authority(workspace: Path) -> Authority:
    return Authority(workspace / "authority")


@pytest.fixture(scope="session")
def clients(workspace: Path) -> Iterator[Clients]:
    made = Clients(workspace)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def registry(workspace: Path) -> Iterator[Registry]:
    started = registry_part.plain(workspace / "registry")
    yield started
    started.stop()



@pytest.fixture(scope="session")
def publish(registry: Registry, workspace: Path) -> Callable[..., Image]:
    """Builds an image of a kind from fresh layers and pushes it to the upstream, past the proxy."""

    def make(kind: str = "single", **options) -> Image:
        if kind == "umoci":
            with tempfile.TemporaryDirectory(dir=workspace) as folder:
                return registry.push(umoci.build_busybox(Path(folder)))
        return registry.push(images.build(kind, **options))

    return make


@pytest.fixture(scope="session")
def container_image(workspace: Path) -> ContainerImage:
    return ContainerImage(workspace / "image")


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    made = Proxy(registry.edge)
    yield made
    made.stop()


@pytest.fixture
def start_headpond(tmp_path: Path) -> Iterator[Callable[..., Headpond]]:
    """Starts a Headpond of the test's own; further arguments are top-level settings. Stopped when the test ends."""
    started: list[Headpond] = []

    def start(rules: list[dict], **settings) -> Headpond:
        made = Headpond(tmp_path / f"headpond-{len(started)}", rules, **settings)
        started.append(made)
        return made.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def start_secure_headpond(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., SecureHeadpond]]:
    started: list[SecureHeadpond] = []

    def start(rules: list[dict], **settings) -> SecureHeadpond:
        made = SecureHeadpond(tmp_path / f"secure-{len(started)}", rules, authority, **settings)
        started.append(made)
        made.start()
        return made

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session", autouse=True)
def binary_is_there() -> Path:
    return headpond_part.binary()
