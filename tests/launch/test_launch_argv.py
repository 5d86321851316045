"""What each process is started with."""

import socket

from neox.config.read import config_from_values
from neox.launch.argv import local_workers
from neox.launch.port import free_port

BASE = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 10,
}


def workers(environ=None, cores=8, devices=2, **keys):
    launch = config_from_values({**BASE, **keys}).launch
    return local_workers(
        launch,
        "train.py",
        "PACKED",
        root="/home/me/my neox",
        environ=environ or {},
        cores=cores,
        port=29501,
        devices=devices,
        python="py",
    )


def test_arguments_and_environment():
    first, second = workers(num_gpus=2)
    assert first.argv == second.argv == ("py", "-u", "train.py", "--config", "PACKED")
    assert first.environment == {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29501",
        "OMP_NUM_THREADS": "4",
        "PYTHONPATH": "/home/me/my neox",
    }
    assert {**first.environment, "RANK": "1", "LOCAL_RANK": "1"} == second.environment


def test_what_a_machine_without_a_gpu_needs():
    assert workers(devices=0)[0].environment["DS_ACCELERATOR"] == "cpu"
    assert workers(devices=0)[0].environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_the_command_can_be_pasted():
    (worker,) = workers()
    command = worker.command()
    assert command[:3] == ["env", "RANK=0", "LOCAL_RANK=0"]
    assert command[-5:] == ["py", "-u", "train.py", "--config", "PACKED"]


def test_threads_share_the_cores():
    assert workers(num_gpus=3)[0].environment["OMP_NUM_THREADS"] == "2"
    assert workers(num_gpus=4, cores=2)[0].environment["OMP_NUM_THREADS"] == "1"
    assert workers({"OMP_NUM_THREADS": "5"}, num_gpus=4)[0].environment["OMP_NUM_THREADS"] == "5"


def test_what_the_user_set_stays():
    (worker,) = workers({"PYTHONPATH": "/a:/home/me/my neox::/b"}, master_addr="10.0.0.1")
    assert worker.environment["PYTHONPATH"] == "/home/me/my neox:/a:/b"
    assert worker.environment["MASTER_ADDR"] == "10.0.0.1"


def test_a_busy_port_is_exchanged():
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = busy.getsockname()[1]
        other = free_port(port)
        assert other != port
    assert free_port(port) == port
