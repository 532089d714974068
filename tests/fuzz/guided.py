"""Messages that atheris finds by the code they reach; a JSON line at the end.

`python -m tests.fuzz.guided SECONDS`

atheris never returns control, so a child does the work (`--child`) and the parent reads libFuzzer's
output.
"""

import os
import re
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent.parent
SEEDS = 2000
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def split(data: bytes) -> tuple[str, bytes]:
    """Split into topic, which is the first line, and payload."""
    topic, _, payload = data.partition(b"\n")
    return topic.decode("utf-8", "replace"), payload


def _child(words: list[str]) -> None:
    import atheris  # noqa: PLC0415 - part of the group `fuzz` only

    with atheris.instrument_imports(include=["insa_anomaly.core.reading.parser"]):
        from tests.fuzz.law import Judge  # noqa: PLC0415 - imports here are instrumented

    judge = Judge()
    atheris.Setup([sys.argv[0], *words], lambda data: judge.judge(*split(data)))
    atheris.Fuzz()


def main() -> int:
    """Fuzz for a number of seconds; return the exit status."""
    if sys.argv[1] == "--child":
        _child(sys.argv[2:])
        return 0
    # The child must not import the parser before it is instrumented.
    from tests.fuzz.payloads import messages  # noqa: PLC0415 - see above

    with tempfile.TemporaryDirectory(prefix="insa-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, (topic, payload) in enumerate(islice(messages(1), SEEDS)):
            (corpus / str(number)).write_bytes(topic.encode() + b"\n" + payload)
        limits = [
            f"-max_total_time={sys.argv[1]}",
            "-rss_limit_mb=1024",
            "-malloc_limit_mb=10",
            "-timeout=5",
            "-print_final_stats=1",
            "-max_len=4096",
        ]
        argv = [sys.executable, "-m", "tests.fuzz.guided", "--child", *limits, str(corpus)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        done = subprocess.run(
            argv,
            check=False,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment,
        )
    executed = _EXECUTED.search(done.stderr)
    crashed = done.returncode != 0 or executed is None
    if crashed:
        sys.stderr.write(done.stderr[-5000:])
    figures = {"executed": int(executed[1]) if executed else 0, "crashes": int(crashed)}
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
