"""The Helm chart, by Helm's engine: what it installs is valid, hardened and consistent, and it refuses what cannot work."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from parts import chart_values, helm, kubernetes

pytestmark = pytest.mark.own_store
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = helm.CHART / "README.md"
VARIANTS = list(chart_values.ALL)
# The oldest that Chart.yaml allows, and the newest whose schemas there are.
CLUSTERS = ["1.25.0", kubernetes.VERSIONS[-1]]


@cache
def release(variant: str) -> helm.Release:
    return helm.install(chart_values.ALL[variant])


def container(variant: str) -> dict:
    (found,) = release(variant).pod["spec"]["containers"]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_chart_lints(variant):
    assert helm.findings(chart_values.ALL[variant]) == []


def test_lint_finds_a_wrong_value():
    assert helm.findings({"replicas": "many"}) != []


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_manifest_is_valid_strictly(variant, cluster):
    problems = [kubernetes.problem(manifest, cluster) for manifest in release(variant).manifests]
    assert len(problems) >= 5
    assert [one for one in problems if one] == []


def test_a_field_that_the_api_does_not_know_is_found():
    pod = release("disk").workload
    wrong = pod | {"spec": pod["spec"] | {"replica": 1}}
    assert "replica" in (kubernetes.problem(wrong, CLUSTERS[-1]) or "")


def test_a_disk_is_a_stateful_set_with_a_claim():
    found = release("disk")
    assert found.kinds == ["ConfigMap", "Service", "Service", "ServiceAccount", "StatefulSet"]
    (claim,) = found.workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}}
    assert found.workload["spec"]["serviceName"] == "headpond-headless"
    # Less than the volume, whose file system needs room too.
    assert found.config["storage"] == {"path": "/var/lib/headpond", "max_size": f"{100 * 1024 * 9 // 10}MiB"}


def test_a_bucket_is_a_deployment_with_a_bounded_tier():
    found = release("s3")
    assert found.kinds == ["ConfigMap", "Deployment", "Service", "Service", "ServiceAccount"]
    assert {"name": "store", "emptyDir": {"sizeLimit": "10Gi"}} in found.pod["spec"]["volumes"]
    assert container("s3")["resources"]["requests"]["ephemeral-storage"] == "10Gi"
    assert found.config["storage"]["max_size"] == f"{10 * 1024 * 9 // 10}MiB"
    assert found.find("ServiceAccount")["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": chart_values.ROLE}


@pytest.mark.parametrize(
    ("said", "strategy"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ({"updateStrategy": "Recreate"}, {"type": "Recreate"}),
    ],
)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_an_upgrade_over_a_bucket_replaces_pods_as_the_values_say(said, strategy, cluster):
    workload = helm.install(chart_values.OVER_S3 | said).workload
    assert workload["spec"]["strategy"] == strategy
    assert kubernetes.problem(workload, cluster) is None


def test_an_upgrade_knows_no_third_way():
    with pytest.raises(helm.Refused, match="updateStrategy"):
        helm.install(chart_values.OVER_S3 | {"updateStrategy": "OnDelete"})


def test_three_replicas_know_each_other_and_are_not_taken_away_together():
    found = release("s3_three_replicas")
    headless = found.find("Service", "headpond-headless")
    assert found.config["cluster"] == {"peers": f"headpond-headless.{helm.NAMESPACE}.svc:5000"}
    assert found.config["auth"] == {"token_key": "file:/etc/headpond/secrets/headpond-token/token.key"}
    assert headless["spec"]["clusterIP"] == "None" and headless["spec"]["publishNotReadyAddresses"] is False
    assert found.workload["spec"]["replicas"] == 3
    assert found.find("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget" not in release("s3").kinds


def test_replicas_ask_each_other_where_there_is_neither_tls_nor_proxy_protocol():
    tls = {"address": "0.0.0.0:5443", "tls": {"certificate": "tls.crt", "key": "tls.key"}}
    proxied = {"address": "0.0.0.0:5100", "proxy_protocol": True}
    config = chart_values.THREE_REPLICAS["config"]
    values = lambda *listen: chart_values.THREE_REPLICAS | {"config": config | {"listen": list(listen)}}
    found = helm.install(values(tls, proxied, "0.0.0.0:5002"))
    assert found.config["cluster"] == {"peers": f"headpond-headless.{helm.NAMESPACE}.svc:5002"}
    with pytest.raises(helm.Refused, match="Add one without to config.listen"):
        helm.install(values(tls, proxied))


def test_listener_of_the_replicas_is_not_in_the_service_for_clients():
    tls = {"address": "0.0.0.0:5443", "tls": {"certificate": "tls.crt", "key": "tls.key"}}

    def ports(values: dict, *listen, **config) -> list[list[str]]:
        """The targets of the Service for clients, and of the headless one."""
        found = helm.install(values | {"config": values["config"] | config | {"listen": list(listen)}})
        services = [found.find("Service", name) for name in ("headpond", "headpond-headless")]
        return [[port["targetPort"] for port in one["spec"]["ports"]] for one in services]

    both = ["registry", "registry-2"]
    three, one = chart_values.THREE_REPLICAS, chart_values.OVER_S3
    assert ports(three, tls, "0.0.0.0:5002") == [["registry"], both]
    assert ports(three, tls, "0.0.0.0:5002", cluster={"peers": ["a.test:5002", "b.test:5002"]}) == [["registry"], both]
    # The first is for clients, too; and one that no replica asks is theirs.
    assert ports(three, "0.0.0.0:5002", tls) == [both, both]
    assert ports(one, tls, "0.0.0.0:5002") == [both, both]
    assert ports(three, tls, "0.0.0.0:5002", "0.0.0.0:5003") == [["registry", "registry-3"], [*both, "registry-3"]]


def test_what_the_user_says_is_kept():
    found = release("everything")
    said = chart_values.EVERYTHING["config"]
    for key in ("listen", "admin", "rules", "limits"):
        assert found.config[key] == said[key]
    assert found.config["storage"]["path"] == "/cache"
    assert found.config["storage"]["max_size"] == "450MiB"
    assert found.config["storage"]["s3"] == said["storage"]["s3"] | {
        "access_key": "file:/etc/headpond/secrets/bucket-keys/access-key",
        "secret_key": "file:/etc/headpond/secrets/bucket-keys/secret-key",
    }
    assert found.config["auth"] == {
        "token_key": "file:/etc/headpond/secrets/headpond-token/key",
        "users": "/etc/headpond/secrets/headpond-users/users.htpasswd",
    }
    assert found.config["cluster"] == {"peers": f"images-headless.{helm.NAMESPACE}.svc:5000"}
    assert container("everything")["image"].endswith("/headpond@sha256:" + "0" * 64)


def test_answers_that_are_zero_or_false_are_answers():
    """Zero is no tier, and is not the same as nothing said."""
    config = {"storage": {"s3": chart_values.BUCKET, "max_size": 0}, "limits": {"shutdown_delay": 0}}
    found = helm.install({"config": config})
    assert found.config["storage"]["max_size"] == 0
    assert found.config["limits"] == {"shutdown_delay": 0}
    assert found.pod["spec"]["terminationGracePeriodSeconds"] == 50


def test_every_listener_has_its_port_and_the_admin_port_is_in_no_service():
    found = release("everything")
    ports = {one["name"]: one["containerPort"] for one in container("everything")["ports"]}
    assert ports == {"registry": 5000, "registry-2": 5443, "admin": 9000}
    asked = lambda name: [(one["port"], one["targetPort"]) for one in found.find("Service", name)["spec"]["ports"]]
    assert asked("images") == [(80, "registry"), (5443, "registry-2")]
    assert asked("images-headless") == [(5000, "registry"), (5443, "registry-2")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_services_and_budgets_find_the_pods_and_nothing_else(variant):
    found = release(variant)
    labels = found.pod["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in found.manifests if one["kind"] == "Service"]
    selectors += [
        one["spec"]["selector"]["matchLabels"]
        for one in found.manifests
        if one["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget")
    ]
    for spread in found.pod["spec"].get("topologySpreadConstraints", []):
        selectors.append(spread["labelSelector"]["matchLabels"])
    for selector in selectors:
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_keep_to_the_restricted_standard(variant):
    pod, only = release(variant).pod["spec"], container(variant)
    outer, inner = pod["securityContext"], only["securityContext"]
    assert outer["runAsNonRoot"] is True and outer["runAsUser"] == outer["fsGroup"] == 65532
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner["allowPrivilegeEscalation"] is False and inner["readOnlyRootFilesystem"] is True
    assert inner["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all("hostPath" not in volume for volume in pod["volumes"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_probes_ask_the_admin_port(variant):
    only = container(variant)
    asked = {name: only[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked["startup"] == asked["liveness"] == {"path": "/healthz", "port": "admin"}
    assert asked["readiness"] == {"path": "/readyz", "port": "admin"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_mount_has_a_volume_and_every_mounted_secret_is_read_only(variant):
    found, only = release(variant), container(variant)
    volumes = {one["name"]: one for one in found.pod["spec"]["volumes"]}
    claims = {one["metadata"]["name"] for one in found.workload["spec"].get("volumeClaimTemplates", [])}
    mounts = {one["name"]: one for one in only["volumeMounts"]}
    assert set(mounts) == set(volumes) | claims
    assert len(mounts) == len(only["volumeMounts"])
    secrets = {name: one["secret"] for name, one in volumes.items() if "secret" in one}
    assert all(mounts[name]["readOnly"] and secret["defaultMode"] == 0o440 for name, secret in secrets.items())
    assert mounts["store"]["mountPath"] == found.config["storage"]["path"]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [({}, 55), ({"drain_deadline": "1m 30s", "shutdown_delay": "500ms"}, 111), ({"drain_deadline": "1h"}, 3625)],
)
def test_pods_get_more_time_to_end_than_headpond_takes(limits, seconds):
    pod = helm.install({"config": {"limits": limits}}).pod
    assert pod["spec"]["terminationGracePeriodSeconds"] == seconds


def test_pods_are_made_anew_when_the_configuration_changes():
    checksum = lambda values: helm.install(values).pod["metadata"]["annotations"]["checksum/config"]
    before = checksum({})
    assert checksum({"podLabels": {"a": "b"}}) == before
    assert checksum({"config": {"log": {"level": "debug"}}}) != before
    assert checksum({"persistence": {"size": "1Gi"}}) != before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 3}, "Set config.storage.s3"),
        ({"replicas": 2, "config": {"storage": {"s3": chart_values.BUCKET}}}, "create secret generic headpond-token"),
        ({"config": {"listen": "127.0.0.1:5000"}}, "cannot be reached from outside the pod"),
        ({"config": {"admin": {"address": "[::1]:5001"}}}, "cannot be reached from outside the pod"),
        ({"config": {"limits": {"drain_deadline": "2 weeks"}}}, "is no duration that a pod can wait for"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(values, said):
    with pytest.raises(helm.Refused, match=re.escape(said)):
        helm.install(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"replicas": "3"}, "at '/replicas': got string, want integer"),
        ({"persistence": {"size": "10GB"}}, "at '/persistence/size'"),
        ({"tier": {"siez": "10Gi"}}, "additional properties 'siez' not allowed"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"service": {"type": "Loadbalancer"}}, "at '/service/type'"),
        ({"serviceAccount": {"annotation": {}}}, "additional properties 'annotation' not allowed"),
        ({"tokenKey": "headpond-token"}, "at '/tokenKey': got string, want object"),
        ({"secrets": [{"name": "a"}]}, "at '/secrets/0'"),
        ({"config": {"storage": {"s3": {"buckt": "b"}}}}, "at '/config/storage/s3'"),
        ({"config": {"limits": {"drain_deadlin": "1s"}}}, "additional properties 'drain_deadlin' not allowed"),
        ({"config": {"rules": [{"prefix": "a", "upstrem": "b"}]}}, "additional properties 'upstrem' not allowed"),
        ({"config": None}, "missing property 'config'"),
    ],
)
def test_mistakes_in_typing_are_refused_by_name(values, said):
    with pytest.raises(helm.Refused, match=re.escape(said)):
        helm.install(values)


@pytest.mark.parametrize("variant", VARIANTS)
def test_notes_end_with_what_to_type_next(variant):
    found = release(variant)
    workload = found.workload
    rollout = f"rollout status {workload['kind'].lower()}/{workload['metadata']['name']}"
    assert f"kubectl --namespace {helm.NAMESPACE} {rollout}" in found.notes
    # What is pulled through listens before it is asked.
    assert re.search(r"port-forward .* &\n +sleep \d.*\n +skopeo copy ", found.notes)
    assert "<no value>" not in found.notes and "nil" not in found.notes


def leaves(values: dict, path: str = "") -> list[str]:
    """Names of the values as a person writes them: up to where the chart passes on whatever is there."""
    found = []
    for key, value in values.items():
        name = f"{path}{key}"
        opaque = not isinstance(value, dict) or not value or name in ("podSecurityContext", "securityContext", "resources")
        found += [name] if opaque else leaves(value, f"{name}.")
    return found


def test_chart_document_names_every_value():
    text = DOCUMENT.read_text()
    names = leaves(yaml.safe_load((helm.CHART / "values.yaml").read_text()))
    assert len(names) > 40
    assert [name for name in names if f"`{name}`" not in text] == []


def example(first_line: str) -> dict:
    """The block of the chart's document that begins so."""
    (found,) = re.findall(rf"^```yaml\n({re.escape(first_line)}\n.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return yaml.safe_load(found)


def test_values_in_the_document_make_replicas_over_a_bucket():
    found = helm.install(example("# values-eks.yaml"))
    assert found.workload["spec"]["replicas"] == 3
    assert found.find("ServiceAccount")["metadata"] == release("s3").find("ServiceAccount")["metadata"]


def test_monitor_in_the_document_finds_the_pods_and_their_admin_port():
    monitor = example("apiVersion: monitoring.coreos.com/v1")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= release("s3").pod["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in container("s3")["ports"]]


@pytest.mark.parametrize(("name", "account"), [("headpond", "headpond"), ("cache", "cache-headpond"), ("my-headpond", "my-headpond")])
def test_service_account_is_called_as_the_document_says(name, account):
    found = helm.install({}, name)
    assert found.find("ServiceAccount")["metadata"]["name"] == account
    assert found.pod["spec"]["serviceAccountName"] == account


@pytest.mark.parametrize("document", ["README.md", "helm/headpond/README.md", "deploy/container/Dockerfile"])
def test_image_is_pushed_under_the_tag_that_the_chart_pulls(document):
    repository, tag = container("disk")["image"].split(":")
    text = (ROOT / document).read_text()
    assert f"registry.example.com/{repository}:{tag}\n" in text or f"registry.example.com/{repository}:{tag} " in text
    assert set(re.findall(r"/headpond:([\w.]+)", text)) == {tag}


def test_chart_is_for_this_version():
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    assert chart["appVersion"] == package["version"]
    assert container("disk")["image"] == f"headpond:{package['version']}"
