"""The peak arithmetic rate of this process's device, which the utilization is a share of."""

from __future__ import annotations

import torch

from neox.config.gpus import known_peak_tflops


def peak_tflops(configured: float | None, device: torch.device, precision: str) -> float | None:
    """Peak of this process's device in TFLOP/s: as configured, else a known GPU's, else None."""
    if configured is not None:
        return configured
    return known_peak_tflops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
