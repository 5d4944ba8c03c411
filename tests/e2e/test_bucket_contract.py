"""The contract that every store keeps, and tests in process hold against memory, disk and s3s-fs: here against Ceph RGW."""

import pytest

from parts.contract import run_contract

pytestmark = pytest.mark.own_store


def test_contract_of_the_stores_holds_on_a_real_s3_server(ceph):
    print(run_contract(ceph.bucket, "--test-threads=2", timeout=150))
