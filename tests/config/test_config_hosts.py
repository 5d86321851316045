"""Hostfiles, friendly and hostile, and the part of them that a run takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.hosts import NAME, Host, read_hostfile, taken
from neox.config.load import load_text
from neox.config.read import resolved
from neox.config.resolve import Surroundings

BASE = """\
num_layers: 4
hidden_size: 64
num_attention_heads: 4
max_position_embeddings: 32
train_micro_batch_size_per_gpu: 2
train_iters: 10
"""
HOSTS = [Host("worker-0", (0, 1, 2, 3)), Host("worker-1", (0, 1, 2, 3)), Host("10.0.0.3", (0, 1))]


def write(tmp_path, text):
    path = tmp_path / "hostfile"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_hostfile(tmp_path):
    text = "# two machines\r\nworker-0 slots=4\r\n\n  worker-1   slots=4  # slow\n10.0.0.3 slots=2"
    assert read_hostfile(write(tmp_path, text)) == HOSTS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h1;touch x slots=1", "hostfile:1: 'h1;touch x slots=1' is no host"),
        ("h1;touch slots=1", "is no host"),
        ("ok slots=1\n-oProxyCommand=x slots=1", "hostfile:2: '-oProxyCommand=x slots=1' is no host"),
        ("$(x) slots=1", "is no host"),
        ("`x` slots=1", "is no host"),
        ("fe80::1 slots=1", "a host's name or IPv4 address"),
        ("user@host slots=1", "is no host"),
        ("h1", "write `NAME slots=NUMBER`"),
        ("h1 slots=x", "is no host"),
        ("h1 slots=2 more", "is no host"),
        ("h1 slots=0", "h1: slots must be 1 to 1024, not 0"),
        ("h1 slots=9999", "not 9999"),
        ("h1 slots=1\nh1 slots=2", "hostfile:2: h1 is given twice"),
        ("# none", "names no host"),
        (b"h\xff1 slots=1", "not UTF-8 text (byte 2)"),
    ],
)
def test_what_is_no_hostfile(tmp_path, text, words):
    """FAULTS 27."""
    with pytest.raises(ConfigError) as caught:
        read_hostfile(write(tmp_path, text))
    assert words in "\n".join(caught.value.complaints)


def test_every_line_is_told(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_hostfile(write(tmp_path, "a b c\nd slots=0\ne slots=1\ne slots=1"))
    assert [complaint.split(":")[1] for complaint in caught.value.complaints] == ["1", "2", "4"]


@given(st.text(max_size=40))
def test_no_name_reaches_a_shell_that_is_not_plainly_a_name(tmp_path_factory, name):
    """FAULTS 27."""
    path = write(tmp_path_factory.mktemp("hosts"), f"{name} slots=2\n".encode(errors="replace"))
    try:
        hosts = read_hostfile(path)
    except ConfigError:
        return
    for host in hosts:
        assert NAME.fullmatch(host.name)
        assert not set(host.name) & set(" ;&|$`<>(){}[]'\"\\\n\t*?!~#@%,:=/")
        assert not host.name.startswith("-")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, HOSTS),
        ({"include": "worker-1@10.0.0.3:1"}, [HOSTS[1], Host("10.0.0.3", (1,))]),
        ({"exclude": "worker-0@worker-1:0,2"}, [Host("worker-1", (1, 3)), HOSTS[2]]),
        ({"nodes": 1}, HOSTS[:1]),
        ({"per_node": 2}, [Host(host.name, (0, 1)) for host in HOSTS]),
    ],
)
def test_the_part_that_is_taken(keys, expected):
    assert taken(HOSTS, **{"include": None, "exclude": None, "nodes": -1, "per_node": None, **keys}) == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"include": "worker-2"}, "include: 'worker-2' is not in the hostfile; did you mean worker-"),
        ({"include": "worker-0:7"}, "include: worker-0 has 4 slots, counted from 0, and no slot 7"),
        ({"include": "worker-0:a"}, "write NODE:SLOT,SLOT"),
        ({"include": "worker-0", "exclude": "worker-1"}, "give one of them"),
        ({"exclude": "worker-0@worker-1@10.0.0.3"}, "leaves no host"),
        ({"nodes": 4}, "num_nodes: 4 hosts are wanted, and the hostfile has 3"),
        ({"per_node": 3}, "num_gpus: 3 slots of each host are wanted, but 10.0.0.3 has 2"),
    ],
)
def test_what_is_not_there(keys, words):
    with pytest.raises(ConfigError) as caught:
        taken(HOSTS, **{"include": None, "exclude": None, "nodes": -1, "per_node": None, **keys})
    assert words in str(caught.value)


# In a configuration


def config(text, **surroundings):
    return resolved(load_text(BASE + text), Surroundings(dry_run=True, environ={}, **surroundings))


def test_slots_of_the_hosts_make_the_world(tmp_path):
    path = write(tmp_path, "a slots=4\nb slots=2\n")
    run = config(f"launcher: pdsh\nhostfile: {path}\nmodel_parallel_size: 2\n")
    assert (run.config.parallel.world_size, run.config.parallel.data_size, run.config.launch.num_nodes) == (6, 3, 2)


def test_a_dry_run_does_without_the_hostfile():
    run = config("launcher: pdsh\nhostfile: /job/hostfile\nnum_nodes: 12\nnum_gpus: 8\n")
    assert run.config.parallel.world_size == 96
    assert any("/job/hostfile is not there: planned for num_nodes x num_gpus" in note for note in run.notes)
    with pytest.raises(ConfigError, match="hostfile: /job/hostfile cannot be read .No such file"):
        resolved(load_text(BASE + "launcher: pdsh\nhostfile: /job/hostfile\n"), Surroundings(environ={}))


def test_slurm_tells_the_hosts():
    environ = {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "8"}
    text = load_text(BASE + "launcher: slurm\n")
    assert resolved(text, Surroundings(dry_run=True, environ=environ)).config.parallel.world_size == 24
    assert config("launcher: slurm\nnum_nodes: 2\nnum_gpus: 4\n").config.parallel.world_size == 8


def test_the_world_must_be_that_of_the_hosts(tmp_path):
    path = write(tmp_path, "a slots=4\n")
    with pytest.raises(ConfigError, match="global_num_gpus: 8 processes, but the hosts of this run have 4 slots"):
        config(f"launcher: openmpi\nhostfile: {path}\nglobal_num_gpus: 8\n")


def test_several_machines_want_a_launcher():
    with pytest.raises(ConfigError, match="launcher: local starts processes on this machine only; use slurm"):
        config("num_nodes: 2\n")
