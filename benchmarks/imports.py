"""What a DAG file pays at each parse for a provider's operators and sensors: beyond `from airflow.sdk import DAG`."""

import json
import subprocess
import sys

from lab import PEERS, Lab, Row, main
from subjects import SUBJECTS

PROGRAM = """
import json, sys, time
from airflow.sdk import DAG
before, begin = len(sys.modules), time.perf_counter()
{statements}
print(json.dumps([(time.perf_counter() - begin) * 1000, len(sys.modules) - before]))
"""


def imports(lab: Lab) -> list[Row]:
    """Fresh interpreters, interleaved; the first round only fills the byte-code caches."""
    names = lab.subjects([*PEERS, "aep"])
    took: dict[str, list[float]] = {name: [] for name in names}
    modules: dict[str, list[float]] = {name: [] for name in names}
    environment = lab.environment("https://127.0.0.1:1")
    for turn in range(3 if lab.quick else 16):
        for name in names:
            program = PROGRAM.format(statements=SUBJECTS[name].parse)
            command = [sys.executable, "-c", program]
            said = subprocess.run(command, env=environment, cwd=lab.folder, stdout=subprocess.PIPE, check=True).stdout
            milliseconds, count = json.loads(said.splitlines()[-1])
            if turn:
                took[name].append(milliseconds)
                modules[name].append(count)
    return [
        Row("import, marginal time", "ms", "<= 5", took),
        Row("import, marginal modules", "modules", "<= 15", modules),
    ]


if __name__ == "__main__":
    main(imports)
