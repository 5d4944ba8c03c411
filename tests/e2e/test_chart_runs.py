"""What the chart renders, run: the pods serve, keep what they pull where the chart says, and end in time."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from parts import chart_values, helm
from parts.container import ContainerImage
from parts.edge import request
from parts.headpond import PASSWORD, USERNAME, hash_password, rules_for
from parts.pod import Cluster, Pod
from parts.process import free_port, wait_until
from parts.s3 import ACCESS_KEY, SECRET_KEY
from parts.skopeo import Skopeo
from parts.stores import Store
from parts.tls import HOST
from parts.way import PREFIX, expected

pytestmark = pytest.mark.own_store
TOKEN = {chart_values.TOKEN_SECRET: {"token.key": "0123456789abcdef" * 4}}
MakePods = Callable[..., list[Pod]]


@pytest.fixture
def make_pods(container_image: ContainerImage, tmp_path: Path) -> Iterator[MakePods]:
    """The pods of an install, each with an address of its own, which the headless Service resolves to."""
    made: list[Pod] = []

    def make(values: dict, given: dict = TOKEN) -> list[Pod]:
        release = helm.install(values)
        count = release.workload["spec"]["replicas"]
        addresses = [f"127.0.0.{1 + index}" for index in range(count)]
        services = [one for one in release.manifests if one["kind"] == "Service"]
        headless = [one["metadata"]["name"] for one in services if one["spec"].get("clusterIP") == "None"]
        cluster = Cluster(given, {f"{name}.{helm.NAMESPACE}.svc": addresses for name in headless})
        new = [Pod(container_image, release, cluster, tmp_path / f"pod-{len(made)}-{address}", address) for address in addresses]
        made.extend(new)
        return new

    # A directory of pytest is open to its owner only, and a pod is another user.
    tmp_path.chmod(0o755)
    yield make
    for pod in made:
        pod.kill()


def on_free_ports(values: dict, **config) -> dict:
    """Ports that nothing else on this machine has."""
    config = values.get("config", {}) | config
    listen = {"address": f"0.0.0.0:{free_port()}"} | config.get("listen", {})
    return values | {"config": config | {"listen": listen, "admin": {"address": f"0.0.0.0:{free_port()}"}}}


@pytest.mark.parametrize("variant", ["disk", "s3", "s3_three_replicas", "disk_with_class"])
def test_rendered_configuration_passes_check_config(make_pods, variant):
    pod = make_pods(chart_values.ALL[variant])[0]
    status, said = pod.says("check-config")
    assert status == 0, said


def test_pod_on_a_disk_serves_keeps_and_ends(make_pods, proxy, publish, tmp_path):
    (pod,) = make_pods(on_free_ports(chart_values.DISK, rules=rules_for(proxy.edge)))
    pod.start()
    assert pod.probe("startup") == pod.probe("liveness") == pod.probe("readiness") == 200

    picture = publish()
    assert Skopeo(tmp_path).pull(pod.edge, picture, "tag") == expected(picture)

    wanted = {digest.removeprefix("sha256:") for digest in picture.blobs}
    kept = lambda: {path.name: path for path in (pod.store / "blobs").rglob("*") if path.is_file()}
    wait_until(lambda: wanted <= set(kept()), "every blob is in the volume")
    assert {path.stat().st_uid for path in kept().values()} == {65532}
    assert pod.running.execute("scrub")
    assert pod.stop() == 0


def test_pod_reads_its_certificate_and_its_users_from_secrets(make_pods, proxy, publish, authority, tmp_path):
    certificate = authority.issue("pod", tmp_path)
    files = {"tls.crt": certificate.certificate.read_text(), "tls.key": certificate.key.read_text()}
    users = {"users.htpasswd": f"{USERNAME}:{hash_password(PASSWORD)}\n"}
    mounted = f"/etc/headpond/secrets/{chart_values.TLS_SECRET}"
    values = {"secrets": [chart_values.TLS_SECRET], "users": {"existingSecret": chart_values.USERS_SECRET}}
    listen = {"tls": {"certificate": f"{mounted}/tls.crt", "key": f"{mounted}/tls.key"}}
    given = {chart_values.TLS_SECRET: files, chart_values.USERS_SECRET: users}
    (pod,) = make_pods(on_free_ports(values, listen=listen, rules=rules_for(proxy.edge)), given)
    pod.start()

    picture = publish()
    edge = replace(pod.edge, ca=authority.certificate, host=HOST)
    path = f"/v2/{PREFIX}/{picture.repository}/manifests/{picture.tag}"
    assert request(edge, path).status == 401
    assert request(edge.logged_in(USERNAME, PASSWORD), path).digest == picture.digest


def over_bucket(store: Store) -> dict:
    """Keys from a Secret, as where there is no role."""
    s3 = {key: value for key, value in store.s3.items() if key not in ("access_key", "secret_key")}
    return {"storage": {"s3": s3}}


def test_three_pods_over_a_bucket_serve_what_one_of_them_fetched(make_pods, ceph, proxy, publish, tmp_path):
    store = Store(tmp_path / "unused", ceph.bucket, f"chart-{secrets.token_hex(6)}")
    keys = {chart_values.KEYS_SECRET: {"access-key": ACCESS_KEY, "secret-key": SECRET_KEY}}
    values = chart_values.THREE_REPLICAS | {"config": over_bucket(store)}
    values |= {"s3Credentials": {"existingSecret": chart_values.KEYS_SECRET}}
    config = {"rules": rules_for(proxy.edge), "limits": {"shutdown_delay": 0}}
    pods = make_pods(on_free_ports(values, **config), TOKEN | keys)
    assert len(pods) == 3
    for pod in pods:
        pod.start()

    picture = publish(layer_bytes=20_000_000)
    for pod in pods:
        assert Skopeo(tmp_path).pull(pod.edge, picture, "tag") == expected(picture)
    # Whichever was asked, upstream sent each blob once.
    assert proxy.journal.body_bytes(picture.largest_blob) <= 1.02 * len(picture.blobs[picture.largest_blob])
    wait_until(lambda: store.holds_all(picture.blobs), "every blob is in the bucket")
    assert [pod.stop() for pod in pods] == [0, 0, 0]

    proxy.refuse()
    (late,) = make_pods(on_free_ports(values | {"replicas": 1}, **config), TOKEN | keys)
    assert Skopeo(tmp_path).pull(late.start().edge, picture, "tag") == expected(picture)
    store.clear()
