"""The contract that every store keeps, and tests in process hold against memory, disk and s3s-fs: here against Ceph RGW."""

import os
from pathlib import Path

import pytest

from parts.ceph import BUCKET
from parts.process import run
from parts.s3 import ACCESS_KEY, REGION, SECRET_KEY

pytestmark = pytest.mark.own_store


def contract_binary() -> str:
    path = Path(os.environ["HEADPOND_CONTRACT_BINARY"]).resolve()
    assert path.is_file(), f"HEADPOND_CONTRACT_BINARY names no file: {path}"
    return str(path)


def test_contract_of_the_stores_holds_on_a_real_s3_server(ceph):
    env = {
        "HEADPOND_TEST_S3_ENDPOINT": ceph.bucket.edge.url,
        "HEADPOND_TEST_S3_BUCKET": BUCKET,
        "HEADPOND_TEST_S3_REGION": REGION,
        "HEADPOND_TEST_S3_ACCESS_KEY": ACCESS_KEY,
        "HEADPOND_TEST_S3_SECRET_KEY": SECRET_KEY,
        "HEADPOND_TEST_S3_E_TAGS": "bare",
    }

    said = run([contract_binary(), "--test-threads=2"], env, timeout=150)

    print(said)
    assert "test result: ok." in said
    assert " 0 passed" not in said
