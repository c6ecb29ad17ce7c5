"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("sparsevlr", "torch", "ray", "optuna", "numpy", "auto_LiRPA")


def machine() -> dict[str, object]:
    """Processor, cores, memory, system and versions; nothing that names the machine."""
    told = _processor()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": told.get("model name", platform.processor()),
        # Models of one name differ in these, and speed with them.
        "vector_instructions": _vectors(told),
        "cores": os.cpu_count(),
        "memory_gb": round(pages * size / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "remark": "virtual machine on shared hardware; times are comparable within one run only",
    }


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, or would have it emulated, many times slower."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_vectors(_processor()))


def _vectors(processor: dict[str, str]) -> list[str]:
    return [name for name in VECTORS if name in processor.get("flags", "").split()]


def _processor() -> dict[str, str]:
    told = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in told}
