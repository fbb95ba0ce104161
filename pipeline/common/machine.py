"""Description of the machine that figures were measured on, stored in every result file: hardware and versions."""

import os
import platform
from pathlib import Path

import torch

from pipeline.common.provenance import provenance


def describe_machine(device: torch.device) -> dict[str, object]:
    """Names of the hardware, torch's threads and the versions of the libraries; nothing that identifies the host."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": provenance(),
    }


def _processor() -> str:
    """The processor's model name as the kernel reports it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
