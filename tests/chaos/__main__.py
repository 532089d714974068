"""The program of `make chaos`: progress on standard error, figures as JSON on standard output.

The exit status is 1 where anything is wrong.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from insa_anomaly.adapters.embedded import Tools
from tests.chaos.run import Plan, run


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second")
    parser.add_argument(
        "--kinds", nargs="*", help="only faults whose name begins so: daemon, 'wire to broker', ..."
    )
    parser.add_argument(
        "--no-contract",
        action="store_true",
        help="devices say nothing again; a broker that is killed saves at every change",
    )
    given = parser.parse_args()
    return Plan(
        given.seconds, given.seed, given.rate, given.kinds or None, contract=not given.no_contract
    )


def _say(text: str) -> None:
    sys.stderr.write(f"chaos: {text}\n")


def main() -> int:
    """Carry out the plan; return the exit status."""
    unpacked = Path(os.environ.get("INSA_UNPACKED", ".tools/root"))
    with tempfile.TemporaryDirectory(prefix="insa-", ignore_cleanup_errors=True) as folder:
        # Servers that may not run as root must reach folders of their own.
        Path(folder).chmod(0o711)
        outcome = run(_plan(), Path(folder), Tools(unpacked if unpacked.is_dir() else None), _say)
    _say(", ".join(f"{kind} {times}" for kind, times in sorted(outcome.count.items())))
    slowest = (
        f"{one.alone:.1f} s after {one.kind} ({one.seconds:.1f} s with what else went wrong)"
        for one in outcome.slowest
    )
    _say("slowest recoveries: " + ", ".join(slowest))
    for words in outcome.complaints:
        _say(f"WRONG: {words}")
    for words in outcome.exits:
        _say(f"the daemon ended by itself; its last words:\n{words}")
    sys.stdout.write(msgspec.json.encode(outcome.figures).decode() + "\n")
    return 1 if outcome.complaints or outcome.exits else 0


if __name__ == "__main__":
    sys.exit(main())
