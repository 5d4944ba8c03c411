"""What deploy/aws says of the bucket: with these rights and no others Headpond does all it does."""

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from parts.ceph import Gateway
from parts.container import ROOT
from parts.edge import Edge
from parts.headpond import Headpond, binary, rules_for
from parts.images import Image
from parts.process import run, wait_until
from parts.proxy import Proxy
from parts.s3 import Bucket
from parts.skopeo import Skopeo
from parts.stores import Store
from parts.way import PREFIX, expected

pytestmark = pytest.mark.own_store
FOLDER = ROOT / "deploy/aws"
WORDS = {
    "ACCOUNT": "123456789012",
    "REGION": "eu-west-1",
    "BUCKET": "my-cache",
    "PREFIX": "prod",
    "NAMESPACE": "headpond",
    "SERVICE_ACCOUNT": "cache",
    "ISSUER": "oidc.eks.eu-west-1.amazonaws.com/id/0123",
    "KEY": "1234abcd-12ab-34cd-56ef-1234567890ab",
    "UPSTREAM": "222222222222",
    "ROLE": "pull",
}
LAYER_BYTES = 30_000_000
USER, ACCESS_KEY, SECRET_KEY = "headpond", "POLICYACCESSKEY", "policy-secret-key"
REQUEST = re.compile(r'"(?P<request>[A-Z]+ \S+) HTTP/1\.1" (?P<status>\d+)')
# Rights by the requests that need them; the first that fits.
RIGHTS = [
    ("s3:ListBucket", r"GET /[^/?]+/?\?(.*&)?list-type=2"),
    ("s3:DeleteObject", r"POST /[^/?]+/?\?delete"),
    ("s3:AbortMultipartUpload", r"DELETE /[^/]+/[^?]+\?(.*&)?uploadId="),
    ("s3:DeleteObject", r"DELETE /[^/]+/[^?]+$"),
    ("s3:PutObject", r"PUT /[^/]+/[^?]+($|\?(.*&)?partNumber=)"),
    ("s3:PutObject", r"POST /[^/]+/[^?]+\?(uploads|(.*&)?uploadId=)"),
    ("s3:GetObject", r"(GET|HEAD) /[^/]+/[^?]+($|\?(x-id=|X-Amz-))"),
]


def filled(name: str, **words: str) -> dict:
    """By the shell function that README.md gives to fill the files in."""
    function = re.search(r"^filled\(\) \{$.*?^\}$", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert function is not None
    env = WORDS | words | {"PATH": "/usr/bin:/bin"}
    script = f'{function[0]}\nfilled "$1"'
    done = subprocess.run(["bash", "-euc", script, "-", name], cwd=FOLDER, env=env, capture_output=True, check=True)
    return json.loads(done.stdout)


def strings(value) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def actions(policy: dict) -> set[str]:
    found = [statement["Action"] for statement in policy["Statement"]]
    return {action for one in found for action in ([one] if isinstance(one, str) else one)}


def right_for(asked: str) -> str:
    fitting = [right for right, shape in RIGHTS if re.match(shape, asked)]
    assert fitting, f"no right is known for {asked}"
    return fitting[0]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.json")))
def test_every_word_in_capitals_is_filled_in(name):
    left = [text for text in strings(filled(name)) if set(WORDS) & set(re.findall(r"[A-Z_]{3,}", text))]
    assert left == []


def test_trust_is_for_one_service_account():
    (statement,) = filled("trust-irsa.json")["Statement"]
    issuer = WORDS["ISSUER"]
    assert statement["Principal"] == {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{issuer}"}
    assert statement["Condition"]["StringEquals"] == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "system:serviceaccount:headpond:cache",
    }


def test_role_of_another_account_and_its_registry_are_filled_in():
    statements = {one["Sid"]: one for one in filled("policy-upstreams.json")["Statement"]}
    assert statements["Role"]["Resource"] == "arn:aws:iam::222222222222:role/pull"
    assert statements["Pull"]["Resource"] == "arn:aws:ecr:*:222222222222:repository/*"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.json")))
def test_document_has_a_command_for_every_file(name):
    assert f'"$(filled {name})"' in (FOLDER / "README.md").read_text()


def test_document_says_what_every_action_is_for():
    # Up to the first empty line, where a table ends.
    (table,) = re.findall(r"^\| action \|.*?(?=\n\n)", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    said = {action for row in table.splitlines() for action in re.findall(r"`(\w+:\w+)`", row.split("|")[1])}
    assert set().union(*(actions(filled(path.name)) for path in FOLDER.glob("policy*.json"))) <= said


@dataclass(frozen=True)
class Granted:
    """A bucket of somebody else's, where a user has the rights of policy.json below a prefix, and no others.

    Headpond has a gateway to itself, so that its log is of what Headpond asks."""

    gateway: Gateway
    owner: Bucket
    prefix: str

    def bucket(self, edge: Edge) -> Bucket:
        return Bucket(edge, self.owner.name, ACCESS_KEY, SECRET_KEY)

    def clear(self) -> None:
        self.owner.delete(f"{self.prefix}/")

    def uploads(self) -> list[str]:
        return self.owner.uploads(self.prefix)

    def store(self, path: Path, **settings) -> Store:
        return GrantedStore(self, path, **settings)

    def asked(self) -> set[str]:
        """The rights for what was asked of the bucket."""
        lines = [REQUEST.search(line) for line in self.gateway.seen(f"/{self.owner.name}")]
        refused = [line["request"] for line in lines if line and line["status"] == "403"]
        assert refused == []
        return {right_for(line["request"]) for line in lines if line}


class GrantedStore(Store):
    """Emptied by the owner: the test's own listing is none of Headpond's rights."""

    def __init__(self, granted: Granted, path: Path, **settings):
        super().__init__(path, granted.bucket(granted.gateway.edge), granted.prefix, **settings)
        self.clear = granted.clear


@pytest.fixture(scope="module")
def granted(ceph) -> Granted:
    name, prefix = f"headpond-aws-{secrets.token_hex(4)}", "prod"
    ceph.add_user(USER, ACCESS_KEY, SECRET_KEY)
    owner = Bucket(ceph.bucket.edge, name)
    owner.create()
    policy = filled("policy.json", BUCKET=name, PREFIX=prefix)
    for statement in policy["Statement"]:
        # A role's policy has no principal: the role has it.
        statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{USER}"]}
    owner.client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    return Granted(ceph.gateway(), owner, prefix)


@pytest.fixture
def start(granted: Granted, start_headpond: Callable[..., Headpond], proxy: Proxy, tmp_path) -> Callable[..., Headpond]:
    def begin(name: str, limits: dict | None = None, **settings) -> Headpond:
        env = {"E2E_ACCESS_KEY": ACCESS_KEY, "E2E_SECRET_KEY": SECRET_KEY}
        store = granted.store(tmp_path / name, **settings)
        return start_headpond(rules_for(proxy.edge), store=store, env=env, limits=limits or {})

    return begin


def test_rule_for_abandoned_uploads_is_taken_by_a_bucket(granted):
    asked = {"Bucket": granted.owner.name}
    granted.owner.client.put_bucket_lifecycle_configuration(**asked, LifecycleConfiguration=filled("lifecycle.json"))
    (taken,) = granted.owner.client.get_bucket_lifecycle_configuration(**asked)["Rules"]
    assert taken["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert taken["Status"] == "Enabled" and "prod/" in json.dumps(taken)


def test_policy_gives_nothing_outside_the_prefix(granted):
    user = granted.bucket(granted.owner.edge)
    user.put("prod/mine", b"")
    user.client.delete_object(Bucket=user.name, Key="prod/mine")
    for refused in (
        lambda: user.put("other/theirs", b""),
        lambda: user.client.delete_bucket(Bucket=user.name),
        lambda: user.client.get_bucket_policy(Bucket=user.name),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()


def test_policy_is_enough_for_all_that_headpond_does_and_no_more(granted, start, proxy, publish, tmp_path):
    image = publish(layer_bytes=LAYER_BYTES)
    first = start("first", max_size="0", limits={"fill_attempts": 1})
    assert Skopeo(tmp_path).pull(first.edge, image, "tag") == expected(image)
    wait_until(lambda: first.store.holds_all(image.blobs), "every blob is in the bucket")

    # Others find all of it there: through a disk of their own, and by redirect.
    for name, settings in {"second": {"max_size": "1GiB"}, "third": {"delivery": "redirect"}}.items():
        assert Skopeo(tmp_path).pull(start(name, **settings).edge, image, "tag") == expected(image)

    assert image.repository in first.get("/v2/_catalog").body.decode()
    for command in (["scrub", "--bucket"], ["gc", "--grace", "0"]):
        run([str(binary()), *command, "--config", str(first.folder / "headpond.yaml")], first.env)
    give_up_an_upload(granted, first, proxy, publish(layer_bytes=LAYER_BYTES))

    given = actions(filled("policy.json"))
    # The gateway may log a request a moment after its answer.
    wait_until(lambda: granted.asked() >= given, f"all of {given} were asked for")
    assert granted.asked() == given


class KeylessStore(GrantedStore):
    """Its settings name no keys: they are where the AWS SDK and its tools look for them."""

    @property
    def s3(self) -> dict:
        return {name: value for name, value in super().s3.items() if not name.endswith("_key")}

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def test_keys_of_the_bucket_are_found_in_the_environment(granted, start_headpond, proxy, publish, tmp_path):
    """The bucket checks signatures: that it is written and read at all is by these keys."""
    image = publish()
    first, second = (KeylessStore(granted, tmp_path / name, max_size="1GiB") for name in ("first", "second"))
    assert Skopeo(tmp_path).pull(start_headpond(rules_for(proxy.edge), store=first).edge, image, "tag") == expected(image)
    wait_until(lambda: first.holds_all([*image.blobs, image.digest]), "the bucket has the image")

    proxy.refuse()

    assert Skopeo(tmp_path).pull(start_headpond(rules_for(proxy.edge), store=second).edge, image, "tag") == expected(image)


def give_up_an_upload(granted: Granted, headpond: Headpond, proxy: Proxy, image: Image) -> None:
    """Upstream is gone for good when some parts of a blob are in the bucket."""
    path = f"/v2/{PREFIX}/{image.repository}"
    assert headpond.get(f"{path}/manifests/{image.tag}").digest == image.digest
    gate = proxy.hold_bodies(image.largest_blob, 2 * LAYER_BYTES // 3)
    with pytest.raises((OSError, HTTPException)), ThreadPoolExecutor(1) as pool:
        pull = pool.submit(headpond.get, f"{path}/blobs/{image.largest_blob}")
        assert gate.reached.wait(20)
        wait_until(granted.uploads, "some of it is uploaded")
        proxy.refuse()
        pull.result(60)
    wait_until(lambda: not granted.uploads(), "the upload is given up")
