"""What each process is started with."""

import shlex
import socket

from neox.config.hosts import Host
from neox.config.sections import LaunchConfig
from neox.launch.argv import Node, forwarded, launcher_argv, node_workers
from neox.launch.port import free_port, held_port, port_of


def workers(environ=None, cores=8, devices=2, processes=1, **node):
    node = {"first_rank": 0, "slots": tuple(range(processes)), "world_size": processes, **node}
    return node_workers(
        Node(master_addr="127.0.0.1", master_port=29501, **node),
        ["train.py", "--config", "PACKED"],
        root="/home/me/my neox",
        environ=environ or {},
        cores=cores,
        devices=devices,
        python="py",
    )


def test_arguments_and_environment():
    first, second = workers(processes=2)
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
    assert workers(processes=3)[0].environment["OMP_NUM_THREADS"] == "2"
    assert workers(processes=4, cores=2)[0].environment["OMP_NUM_THREADS"] == "1"
    assert workers({"OMP_NUM_THREADS": "5"}, processes=4)[0].environment["OMP_NUM_THREADS"] == "5"


def test_what_the_user_set_stays():
    (worker,) = workers({"PYTHONPATH": "/a:/home/me/my neox::/b"})
    assert worker.environment["PYTHONPATH"] == "/home/me/my neox:/a:/b"


def test_a_node_among_others():
    first, second = workers(first_rank=8, slots=(1, 3), world_size=16, network_interface="eth1")
    assert [first.environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["8", "0", "16"]
    assert [second.environment[name] for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == ["9", "1", "2"]
    assert second.environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert second.environment["GLOO_SOCKET_IFNAME"] == second.environment["NCCL_SOCKET_IFNAME"] == "eth1"
    assert "CUDA_VISIBLE_DEVICES" not in workers(slots=(1, 3), devices=0)[0].environment


HOSTS = [Host("alpha", (0, 1)), Host("beta", (0,))]
AGENT = [
    *("env", "PYTHONPATH=/home/me/my neox", "py", "-u", "-m", "neox.launch.node"),
    *("--folder", "/run here", "--orders", "/run here/o"),
    *("--slots", "0,1:0", "--master-port", "29501"),
]
ARGV = ["train it.py", "--config", "100%n;$(x)"]


def command(hosts=HOSTS, **launch):
    return launcher_argv(
        LaunchConfig(**launch),
        hosts,
        ARGV,
        root="/home/me/my neox",
        folder="/run here",
        orders="/run here/o",
        port=29501,
        python="py",
    )


def test_pdsh():
    *words, line = command(launcher="pdsh", launcher_args=["-t", "5"])
    assert words == ["pdsh", "-S", "-N", "-R", "ssh", "-f", "2", "-t", "5", "-w", "alpha,beta"]
    assert "%n" in line
    for number in ("0", "1"):  # what pdsh makes of the line, and the shell of that
        heard = shlex.split(line.replace("%%", "\0").replace("%n", number).replace("\0", "%"))
        assert heard == [*AGENT, "--master-addr", "alpha", "--node-rank", number, "--", *ARGV]


def test_openmpi():
    words = ["mpirun", "--host", "alpha:1,beta:1", "-n", "2", "--bind-to", "none", "--tag"]
    expected = [*words, *AGENT, "--master-addr", "10.0.0.1", "--", *ARGV]
    assert command(launcher="openmpi", launcher_args=["--tag"], master_addr="10.0.0.1") == expected


def test_mpich():
    words = ["mpiexec.hydra", "-hosts", "alpha,beta", "-ppn", "1", "-n", "2", "-verbose"]
    expected = [*words, *AGENT, "--master-addr", "alpha", "--", *ARGV]
    assert command(launcher="mpich", launcher_args=["-verbose"]) == expected


def test_torchrun():
    start, module = ["env", "PYTHONPATH=/home/me/my neox"], ["py", "-m", "torch.distributed.run"]
    end = ["-m", "neox.launch.elastic", "--orders", "/run here/o", "--", *ARGV]
    alone = ["--nnodes", "1", "--nproc-per-node", "2", "--standalone", "--max-restarts", "3", "--tee", "3"]
    one = command(HOSTS[:1], launcher="torchrun", max_restarts=3, launcher_args=["--tee", "3"])
    assert one == [*start, *module, *alone, *end]
    many = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-id", "neox"]
    many += ["--rdzv-endpoint", "node-0:29501", "--max-restarts", "0"]
    expected = [*start, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", *module, *many, *end]
    assert command(launcher="torchrun", master_addr="node-0") == expected


def test_slurm():
    words = ["srun", "--nodes", "2", "--ntasks", "2", "--ntasks-per-node", "1", "--kill-on-bad-exit=1"]
    words.append("--cpu-bind=none")
    expected = [
        *words,
        "--account",
        "a b",
        "--comment",
        "$(c)",
        "--mem=0",
        *AGENT,
        "--network-interface",
        "ib0",
        "--",
        *ARGV,
    ]
    keys = {"account": "a b", "comment": "$(c)", "launcher_args": ["--mem=0"], "network_interface": "ib0"}
    assert command(launcher="slurm", **keys) == expected


def test_what_other_hosts_hear_of_this_environment():
    environ = {
        "WANDB_API_KEY": "k",
        "NCCL_DEBUG": "INFO",
        "HOME": "/root",
        "CUDA_VISIBLE_DEVICES": "3",
        "AWS_SECRET": "s",
    }
    assert forwarded(environ) == {"WANDB_API_KEY": "k", "NCCL_DEBUG": "INFO"}


def test_a_held_port_is_free_to_listen_on_and_given_to_nobody_else():
    with held_port(None) as holder, socket.socket() as rank_0:
        assert port_of(holder) not in {free_port(None) for _ in range(50)}
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank_0.bind(("", port_of(holder)))
        rank_0.listen()


def test_a_busy_port_is_exchanged():
    """FAULTS 17."""
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = busy.getsockname()[1]
        other = free_port(port)
        assert other != port
    assert free_port(port) == port
