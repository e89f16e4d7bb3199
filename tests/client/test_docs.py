"""The examples of the documentation run as they stand, against real agents."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cluster import ROOT, RealCluster

pytestmark = pytest.mark.real

ENDPOINT = "127.0.0.1:7411"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(block, id=f"{page}-{place}")
    for page in ("README.md", "docs/clients.md")
    for place, block in enumerate(_BLOCK.findall((ROOT / page).read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with RealCluster(tmp_path_factory.mktemp("docs"), 3) as running:
        yield running


def test_there_are_examples_of_every_client() -> None:
    text = "".join(str(example.values[0]) for example in EXAMPLES)
    for name in ("Client(", "TrioClient(", "BulkClient(", "op_id"):
        assert name in text


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(cluster: RealCluster, tmp_path: Path, example: str) -> None:
    assert ENDPOINT in example
    script = tmp_path / "example.py"
    script.write_text(example.replace(ENDPOINT, cluster.addresses[0]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
