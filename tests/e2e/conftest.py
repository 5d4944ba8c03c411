"""Fixtures: the parts shared by the whole suite, and makers of those a test has to itself."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parts import headpond as headpond_part
from parts import images, stores, umoci
from parts import registry as registry_part
from parts.ceph import Ceph, StartingCeph
from parts.container import ContainerImage
from parts.headpond import Headpond, SecureHeadpond
from parts.images import Image
from parts.moto import Moto
from parts.proxy import Proxy
from parts.registry import Registry
from parts.s3 import Bucket
from parts.stores import Store
from parts.tls import Authority
from parts.ways import Clients


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store", choices=stores.KINDS, default="disk", help="where every Headpond keeps what it has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with a store of their own say the same whatever the run is for: they are part of the run on disk."""
    if config.getoption("--store") == "disk":
        return
    items[:] = [item for item in items if item.get_closest_marker("own_store") is None]


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


@pytest.fixture(scope="session")
def moto(workspace: Path) -> Iterator[Moto]:
    started = Moto(workspace / "moto")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def starting_ceph(workspace: Path) -> Iterator[StartingCeph]:
    made = StartingCeph(workspace / "ceph")
    yield made
    made.stop()


@pytest.fixture(scope="session", autouse=True)
def start_ceph_early(request: pytest.FixtureRequest) -> None:
    """In the background: tests that need it come later, or wait."""
    asked_for = any("ceph" in item.fixturenames for item in request.session.items)
    if asked_for or request.config.getoption("--store") != "disk":
        request.getfixturevalue("starting_ceph")


@pytest.fixture(scope="session")
def ceph(starting_ceph: StartingCeph) -> Ceph:
    return starting_ceph.get()


@pytest.fixture(scope="session")
def new_store(request: pytest.FixtureRequest) -> Callable[[Path], Store]:
    """Makes a store of the kind that this run of the suite is for."""
    kind = request.config.getoption("--store")

    def bucket() -> Bucket:
        return request.getfixturevalue("starting_ceph").get().bucket

    return lambda path: stores.make(kind, path, bucket, f"e2e-{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def make_headpond(
    new_store: Callable[[Path], Store], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Headpond]:
    """Makes a Headpond with a store of this run's kind, behind TLS where an authority is given. Not started."""

    def make(
        rules: list[dict],
        folder: Path | None = None,
        authority: Authority | None = None,
        store: Store | None = None,
        **settings,
    ) -> Headpond:
        folder = folder or tmp_path_factory.mktemp("headpond")
        store = store or new_store(folder / "store")
        if authority:
            return SecureHeadpond(folder, rules, authority, store=store, **settings)
        return Headpond(folder, rules, store=store, **settings)

    return make


@pytest.fixture
def start_headpond(make_headpond: Callable[..., Headpond], tmp_path: Path) -> Iterator[Callable[..., Headpond]]:
    """Starts a Headpond of the test's own; further arguments are top-level settings. Stopped when the test ends."""
    started: list[Headpond] = []

    def start(rules: list[dict], **settings) -> Headpond:
        made = make_headpond(rules, tmp_path / f"headpond-{len(started)}", **settings)
        started.append(made)
        return made.start()

    yield start
    for one in started:
        one.stop()
    for one in started:
        one.store.clear()


@pytest.fixture
def start_secure_headpond(start_headpond: Callable[..., Headpond], authority: Authority) -> Callable[..., Headpond]:
    return lambda rules, **settings: start_headpond(rules, authority=authority, **settings)


@pytest.fixture(scope="session", autouse=True)
def binary_is_there() -> Path:
    return headpond_part.binary()
