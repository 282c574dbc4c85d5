"""All figures of this provider beside its peers and the bare limit, in one table: `make bench`, or `run.py --quick`.

A quick run has small sizes and leaves out three peers and the programs that need a metadata database. The full one
takes about 20 minutes on two cores; `--repeat 3` gives every size up to 1,000 waits three interleaved repetitions.
Each figure is a program of its own as well: `python benchmarks/cpu.py --only aep census`.
"""

import sys

from all_fired import all_fired
from cpu import cpu
from first_run import first_run
from imports import imports
from lab import main
from loop_lag import loop_lag
from memory import memory
from one_hour import one_hour
from operator_cost import operator_cost
from requests_sent import requests_sent
from sockets import sockets
from triggerer import triggerer

FIGURES = [requests_sent, cpu, loop_lag, memory, sockets, all_fired, one_hour, imports]
WITH_DATABASE = [operator_cost, first_run, triggerer]

if __name__ == "__main__":
    main(*FIGURES, *([] if "--quick" in sys.argv else WITH_DATABASE))
