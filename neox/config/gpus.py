"""Known GPUs: memory, peak rates and links, by the plan's short name and by the name that the driver gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Gpu:
    """What one device has, from its maker's data sheet."""

    name: str  # a part of the name that the driver and torch give it
    half_tflops: float  # dense, without structured sparsity: fp16 and bf16 on the matrix units
    single_tflops: float  # fp32 without TF32
    memory_gib: float  # as the driver counts it
    memory_gb_per_second: float
    link_gb_per_second: float  # to the other GPUs of its machine, in one direction: NVLink or PCIe

    @property
    def memory_bytes(self) -> int:
        """Its memory in bytes."""
        return int(self.memory_gib * 2**30)

    def peak_tflops(self, precision: str) -> float:
        """Peak in fp32, fp16 or bf16."""
        return self.single_tflops if precision == "fp32" else self.half_tflops


# torch sees each half of an MI250X as a device of its own
GPUS: dict[str, Gpu] = {
    "b200": Gpu("B200", 2250, 75, 179, 8000, 900),
    "gb200": Gpu("GB200", 2500, 80, 185, 8000, 900),
    "b100": Gpu("B100", 1800, 60, 179, 8000, 900),
    "gh200": Gpu("GH200", 989.4, 66.9, 95.6, 4000, 450),
    "h200": Gpu("H200", 989.4, 66.9, 140.4, 4800, 450),
    "h200-nvl": Gpu("H200 NVL", 835.5, 60, 140.4, 4800, 450),
    "h100-80gb": Gpu("H100", 989.4, 66.9, 79.6, 3350, 450),
    "h100-pcie": Gpu("H100 PCIe", 756, 51.2, 79.6, 2000, 64),
    "h100-nvl": Gpu("H100 NVL", 835.5, 60, 93.6, 3900, 300),
    "h800": Gpu("H800", 989.4, 66.9, 79.6, 3350, 200),
    "h20": Gpu("H20", 148, 44, 95.6, 4000, 450),
    "a100-40gb": Gpu("A100", 312, 19.5, 40, 1555, 300),
    "a100-80gb": Gpu("A100", 312, 19.5, 80, 2039, 300),
    "a800": Gpu("A800", 312, 19.5, 80, 2039, 200),
    "a40": Gpu("A40", 149.7, 37.4, 45, 696, 32),
    "a30": Gpu("A30", 165, 10.3, 24, 933, 32),
    "a10g": Gpu("A10G", 70, 35, 22.5, 600, 32),
    "a10": Gpu("A10", 125, 31.2, 22.5, 600, 32),
    "l40s": Gpu("L40S", 362, 91.6, 45, 864, 32),
    "l40": Gpu("L40", 181, 90.5, 45, 864, 32),
    "l4": Gpu("L4", 121, 30.3, 22.5, 300, 32),
    "v100-pcie": Gpu("V100-PCIE", 112, 14, 16, 900, 16),
    "v100-16gb": Gpu("V100", 125, 15.7, 16, 900, 150),
    "v100-32gb": Gpu("V100", 125, 15.7, 32, 900, 150),
    "t4": Gpu("T4", 65, 8.1, 15, 320, 16),
    "rtx-a6000": Gpu("RTX A6000", 154.8, 38.7, 48, 768, 32),
    "rtx-6000-ada": Gpu("RTX 6000 Ada", 364.2, 91.1, 48, 960, 32),
    "rtx-3090": Gpu("RTX 3090", 71, 35.6, 24, 936, 32),
    "rtx-4090": Gpu("RTX 4090", 165.2, 82.6, 24, 1008, 32),
    "rtx-5090": Gpu("RTX 5090", 209.5, 104.8, 31.8, 1792, 64),
    "mi325x": Gpu("MI325X", 1307.4, 163.4, 256, 6000, 448),
    "mi300x": Gpu("MI300X", 1307.4, 163.4, 192, 5300, 448),
    "mi250x": Gpu("MI250X", 191.5, 23.95, 64, 1638, 100),
}


def find_gpu(device_name: str) -> str | None:
    """The short name of a GPU such as "NVIDIA H100 80GB HBM3"; None for an unknown one.

    Of those that differ in memory alone, the one whose size the name tells, else the smallest.
    """
    # a slice of a GPU and a laptop's version carry the whole one's name, but not its size and rate
    if re.search(r"\b(MIG|Laptop|Max-Q)\b", device_name):
        return None
    # (?!\w) keeps "A40" from matching an A4000, and \b "H200" a GH200
    fitting = [short for short, gpu in GPUS.items() if re.search(rf"\b{re.escape(gpu.name)}(?!\w)", device_name)]
    if not fitting:
        return None
    longest = max(len(GPUS[short].name) for short in fitting)
    kin = [short for short in fitting if len(GPUS[short].name) == longest]
    told = re.search(r"(\d+)GB", device_name)
    return next((short for short in kin if told and told[0].lower() in short), kin[0])


def known_peak_tflops(device_name: str, precision: str) -> float | None:
    """Peak of a GPU by its device name in `precision` (fp32, fp16, bf16), in TFLOP/s; None for an unknown one."""
    short = find_gpu(device_name)
    return None if short is None else GPUS[short].peak_tflops(precision)


def this_machines_gpu(driver_folder: Path = DRIVER_FOLDER) -> str | None:
    """The short name of this machine's GPUs, asked of NVIDIA's driver without torch; None without one that is known.

    A machine with several kinds counts as its first.
    """
    for path in sorted(driver_folder.glob("*/information")):
        try:
            told = re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        return find_gpu(told[1].strip()) if told else None
    return None
