"""A client of `benchmarks.service` in a process of its own, which may be killed.

python -m experiments.benchmarks.service_worker '{"url": ..., "key": ..., "ledger": ..., "pool": ..., "out": ...}'
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.teachers.service import Service


def main(spec: dict[str, Any]) -> None:
    """Ask a service about a pool, an npy file, and write its answers to another."""
    pool = np.load(spec["pool"])
    how = {name: spec[name] for name in ("batch", "concurrency", "timeout", "attempts") if name in spec}
    with Service(spec["url"], Path(spec["ledger"]), key=spec["key"], **how) as service:
        logits = service.logits(pool)
    np.save(spec["out"], logits)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
