"""A program of its own: the memory that ONNX Runtime takes for a model, beyond what importing it takes. Linux only.

Run with the path of the model, the name of its input, and the shape of the inputs, batch first; prints bytes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

PROCESS = Path("/proc/self")


def resident(what: str) -> int:
    """Bytes of this process in memory: now (`VmRSS`), or at most since the peak was last reset (`VmHWM`)."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def main(model: str, name: str, *shape: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    inputs = np.zeros([int(size) for size in shape], np.float32)
    # The peak so far is that of the imports.
    (PROCESS / "clear_refs").write_text("5")
    before = resident("VmRSS")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {name: inputs})
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
