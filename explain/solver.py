"""Many maximum flows on one graph, on all cores: scipy's solver holds Python's lock, so processes help.

It also runs by itself, as the helpers do: they load numpy and scipy, and nothing else of the package.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

WORTH = 2**24
"""How many edges times flows a helper is started for: for less, starting it costs more than it brings."""


def maximum_flows(edges: csr_array, source: int, sinks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The maximum flow from a node to each of several, by Dinic's algorithm.

    Args:
        edges: capacities, int32, (node, node); the same for every flow.
        source: a node.
        sinks: other nodes.

    Returns:
        The flows, in the order of the sinks. They do not depend on the number of helpers.
    """
    count = min(os.cpu_count() or 1, edges.nnz * len(sinks) // WORTH)
    values = np.zeros(len(sinks), dtype=np.int64)
    with ExitStack() as stack:
        helpers = [_started(stack, edges, source, sinks[first::count]) for first in range(1, count)]
        for first, helper in enumerate([None, *helpers]):
            part = slice(first, None, max(1, count))
            answer = helper.communicate()[0] if helper else b""
            if helper is None or helper.returncode:  # this process's own share, or a helper's that failed
                values[part] = _solved(edges, source, sinks[part])
            else:
                values[part] = pickle.loads(answer)
    return values


def _started(
    stack: ExitStack, edges: csr_array, source: int, sinks: NDArray[np.int64]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", __file__]
    # A file holds any amount: a pipe would make this process wait until the helper reads.
    with tempfile.TemporaryFile() as task:
        pickle.dump((edges, source, sinks), task)
        task.seek(0)
        return stack.enter_context(
            subprocess.Popen(command, stdin=task, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )


def _solved(edges: csr_array, source: int, sinks: NDArray[np.int64]) -> NDArray[np.int64]:
    flows = [maximum_flow(edges, source, int(sink), method="dinic").flow_value for sink in sinks]
    return np.array(flows, dtype=np.int64)


if __name__ == "__main__":
    pickle.dump(_solved(*pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
