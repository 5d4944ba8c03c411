"""Latency of warm pulls while the upstream fails, against the same with it well. Prints numbers, asserts nothing.

    HEADPOND_BINARY=target/release/headpond target/e2e-venv/bin/python tests/e2e/bench_failure_p99.py [rounds]

Each round measures "well" and then each failure, so that a slow spell of the machine falls on all alike; reported are
medians over the rounds. A pull is the tag's manifest, past its freshness, and the image's blobs, over one connection.
The first probe of a failing upstream is left out: it is what the circuit pays once.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from parts import images, registry
from parts.edge import Edge, connect
from parts.failures import FAILURES
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.proxy import Proxy, in_front_of

ROUNDS = 5
PULLS = 400
FRESHNESS_SECONDS = 1.0
TARGET_RATIO = 1.5


def pull_ms(edge: Edge, image: Image) -> float:
    connection = connect(edge)
    started = time.perf_counter()
    paths = [f"manifests/{image.tag}", *(f"blobs/{digest}" for digest in image.blobs)]
    for path in paths:
        connection.request("GET", f"/v2/{image.repository}/{path}")
        response = connection.getresponse()
        response.read()
        assert response.status == 200, (path, response.status)
    took = (time.perf_counter() - started) * 1000
    connection.close()
    return took


def measure(headpond: Headpond, proxy: Proxy, image: Image, state: str) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds of warm pulls in this state of the upstream."""
    proxy.recover()
    if state != "well":
        FAILURES[state](proxy)
    time.sleep(FRESHNESS_SECONDS * 1.2)
    pull_ms(headpond.edge, image)
    took = sorted(pull_ms(headpond.edge, image) for _ in range(PULLS))
    return statistics.median(took), took[int(len(took) * 0.99)]


def run_rounds(headpond: Headpond, proxy: Proxy, image: Image, rounds: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {state: [] for state in ("well", *FAILURES)}
    for _ in range(rounds):
        for state, results in found.items():
            results.append(measure(headpond, proxy, image, state))
    return found


def print_table(found: dict[str, list[tuple[float, float]]]) -> None:
    well = statistics.median(p99 for _, p99 in found["well"])
    print(f"{'upstream':<10}{'p50 ms':>10}{'p99 ms':>10}{'p99 ratio':>12}")
    for state, results in found.items():
        p50 = statistics.median(p50 for p50, _ in results)
        p99 = statistics.median(p99 for _, p99 in results)
        verdict = "" if p99 <= TARGET_RATIO * well else f"  above {TARGET_RATIO}"
        print(f"{state:<10}{p50:>10.2f}{p99:>10.2f}{p99 / well:>12.2f}{verdict}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = registry.plain(folder / "registry")
        image = upstream.push(images.build("single"))
        with in_front_of(upstream.edge) as proxy:
            limits = {"limits": {"circuit_cooldown": "1s", "revalidate_backoff": "1s"}}
            rules = rules_for(proxy.edge, freshness={"default": f"{FRESHNESS_SECONDS:.0f}s"})
            headpond = Headpond(folder / "headpond", rules, **limits).start()
            print_table(run_rounds(headpond, proxy, image, rounds))
            headpond.stop()
        upstream.stop()


if __name__ == "__main__":
    main()
