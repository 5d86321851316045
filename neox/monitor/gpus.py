"""The peak arithmetic rate of known GPUs, by the name that torch gives them. Knows nothing about a run."""

from __future__ import annotations

import re

import torch

# Dense TFLOP/s (no structured sparsity) in fp16 and bf16 on the matrix units, and in fp32 without TF32, from the
# makers' data sheets. torch sees each half of an MI250X as a device of its own.
PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "GB200": (2500, 80),
    "B100": (1800, 60),
    "GH200": (989.4, 66.9),
    "H200": (989.4, 66.9),
    "H200 NVL": (835.5, 60),
    "H100 PCIe": (756, 51.2),
    "H100 NVL": (835.5, 60),
    "H100": (989.4, 66.9),
    "H800": (989.4, 66.9),
    "H20": (148, 44),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100-PCIE": (112, 14),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 6000 Ada": (364.2, 91.1),
    "RTX 3090": (71, 35.6),
    "RTX 4090": (165.2, 82.6),
    "RTX 5090": (209.5, 104.8),
    "MI325X": (1307.4, 163.4),
    "MI300X": (1307.4, 163.4),
    "MI250X": (191.5, 23.95),
}


def known_peak_tflops(device_name: str, precision: str) -> float | None:
    """Peak of a GPU such as "NVIDIA H100 80GB HBM3" in `precision` (fp32, fp16, bf16); None for an unknown one."""
    # a slice of a GPU and a laptop's version carry the whole one's name, but not its rate
    if re.search(r"\b(MIG|Laptop|Max-Q)\b", device_name):
        return None
    for name in sorted(PEAK_TFLOPS, key=len, reverse=True):
        # (?!\w) keeps "A40" from matching an A4000, and \b "H200" a GH200
        if re.search(rf"\b{re.escape(name)}(?!\w)", device_name):
            half, single = PEAK_TFLOPS[name]
            return single if precision == "fp32" else half
    return None


def peak_tflops(configured: float | None, device: torch.device, precision: str) -> float | None:
    """Peak of this process's device in TFLOP/s: as configured, else a known GPU's, else None."""
    if configured is not None:
        return configured
    return known_peak_tflops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
