"""Where and with what a report was made. No torch."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from tokviz import __version__


def machine() -> str:
    """Processor and number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cpu_name()}, {cores} core{'' if cores == 1 else 's'}"


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of what computes the answers."""
    return {
        "tokviz": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }
