"""Known GPUs by the names that drivers give them."""

import pytest

from neox.config.gpus import GPUS, find_gpu, known_peak_tflops, this_machines_gpu


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756, 51.2),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA GH200 480GB", 989.4, 66.9),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A10", 125, 31.2),
        ("Tesla V100-SXM2-32GB", 125, 15.7),
        ("Tesla V100-PCIE-16GB", 112, 14),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("AMD Instinct MI300X", 1307.4, 163.4),
    ],
)
def test_known_gpus(name, half, single):
    assert known_peak_tflops(name, "bf16") == known_peak_tflops(name, "fp16") == half
    assert known_peak_tflops(name, "fp32") == single


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA A1000",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Quadro T400",
        "NVIDIA XH100",
    ],
)
def test_a_name_that_only_resembles_a_known_gpu_has_no_peak(name):
    assert known_peak_tflops(name, "bf16") is None
    assert find_gpu(name) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
    ],
)
def test_sizes_are_told_apart(name, short):
    assert find_gpu(name) == short


def test_the_driver_tells_the_gpu(tmp_path):
    assert this_machines_gpu(tmp_path) is None
    (tmp_path / "0000:18:00.0").mkdir()
    (tmp_path / "0000:18:00.0" / "information").write_text(
        "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\nGPU UUID: \t GPU-0\n"
    )
    assert this_machines_gpu(tmp_path) == "h100-80gb"
    (tmp_path / "0000:18:00.0" / "information").write_text("Model: Quadro T400\n")
    assert this_machines_gpu(tmp_path) is None


def test_every_gpu_is_found_by_its_own_name():
    for short, gpu in GPUS.items():
        found = GPUS[find_gpu(f"NVIDIA {gpu.name}")]
        assert (found.name, found.half_tflops) == (gpu.name, gpu.half_tflops), short
        assert gpu.single_tflops < gpu.half_tflops and gpu.memory_gib > 0
