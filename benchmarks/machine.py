"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("sparsevlr", "torch", "ray", "optuna", "numpy", "auto_LiRPA")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; nothing that names the machine."""
    told = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    told = {name.strip(): value.strip() for name, value in told.items()}
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": told.get("model name", platform.processor()),
        # Models of one name differ in these, and speed with them.
        "vector_instructions": [name for name in VECTORS if name in told.get("flags", "").split()],
        "cores": os.cpu_count(),
        "memory_gb": round(pages * size / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "remark": "virtual machine on shared hardware; times are comparable within one run only",
    }
