"""How long after `ray job submit` the first window is made, on a cluster that has never worked and on a warm one.

    python -m tests.benchmarks.bench_submit [TIMES]

Two nodes of two CPUs, an S3 server and a row of one window by `tiny`, all on this machine. Cold: the nodes have the
packages, but no worker has ever started there, and the code has not come yet. Warm: the same again, with another seed.
What comes before, that a cloud starts a machine and fetches an image, is not in it.
"""

import json
import logging
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime

import boto3

from pipelines import results, scratch, storage
from pipelines.spans import spans_of
from pipelines.status import read_status
from tests.conftest import EXAMPLES
from tests.nodes import ROOT, Nodes, nodes
from tests.s3 import serve_s3

ROW = {"portrait": "portrait_nasa.jpg", "audio": "speech_es_short.flac", "end_s": 0.5, "num_steps": 10, "id": "anna"}


def upload() -> None:
    """A manifest for each job, and what they need."""
    boto3.client("s3").create_bucket(Bucket="bench")
    for name in (ROW["portrait"], ROW["audio"]):
        storage.publish(f"{EXAMPLES}/{name}", f"s3://bench/{name}")
    for seed, job in enumerate(("cold", "warm")):
        storage.write(json.dumps({**ROW, "seed": seed}).encode(), f"s3://bench/{job}.jsonl")


def seconds(cluster: Nodes, job: str, output: str) -> dict[str, float]:
    """What had happened so many seconds after the command was given. Raises RuntimeError if it failed."""
    given = time.time()
    client = cluster.submit(job, ROOT, "render", f"s3://bench/{job}.jsonl", "--output", output, "--model", "tiny")
    said, _ = client.communicate()
    if client.returncode:
        raise RuntimeError(said)
    [row] = results.read_results(output).to_pylist()
    [generate] = [span for span in spans_of(row) if span.stage == "generate"]
    begun = datetime.fromisoformat(str(read_status(output).started_at)).timestamp()
    moments = {
        "taken by the head": cluster.ask(f"api/jobs/{job}")["start_time"] / 1000,
        "rows checked": begun,
        "generator has its row": generate.started_at,
        "first window": generate.started_at + generate.seconds,
    }
    return {name: moment - given for name, moment in moments.items()}


def main(times: int) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server's line for every request
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with serve_s3(), tempfile.TemporaryDirectory() as folder:
        upload()
        for number in range(times):
            started = time.time()
            with nodes(2, RAY_AUTH_MODE="disabled", **{scratch.VARIABLE: folder}) as cluster:
                found["nodes", "there"].append(time.time() - started)
                for job in ("cold", "warm"):
                    for name, after_s in seconds(cluster, job, f"s3://bench/{number}/{job}").items():
                        found[job, name].append(after_s)
    for (what, name), values in found.items():
        print(f"{what}: {name} after {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
