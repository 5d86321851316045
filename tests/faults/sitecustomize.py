"""Faults from outside: workers import this where a test puts its folder on PYTHONPATH and names a fault.

NEOX_FAULT is `POINT:ACTION[:COUNT]`; the action happens at the COUNT-th time (1 by default, or several: 4,10) that a rank reaches the
point.
Points wrap the product's own functions, so the product has no branch for them.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys

POINTS = {  # name: module, function, whether the fault comes before or after it
    "step": ("neox.training.loop", "advance", "before"),
    "before_manifest": ("neox.checkpoint.layout", "publish", "before"),
    "before_rename": ("neox.checkpoint.layout", "_name", "before"),
    "before_latest": ("neox.checkpoint.layout", "_point_latest", "before"),
    "after_latest": ("neox.checkpoint.layout", "publish", "after"),
    "batch": ("neox.data.batches", "_collate", "after"),
    "mid_shard": ("neox.checkpoint.saver", "write_tensors", "instead"),
}


def kill9(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(path, _tensors):
    path.write_bytes(b"half a file")
    kill9()


def no_space(*_):
    raise OSError(28, "No space left on device")


def stop(*_):
    os.kill(os.getpid(), signal.SIGSTOP)


def no_number(batch):
    """The loss of this batch, and its gradient, are NaN: what a broken sample or a broken kernel does."""
    return type(batch)(batch.tokens, batch.labels, batch.loss_mask * float("nan"))


def spike(batch):
    return type(batch)(batch.tokens, batch.labels, batch.loss_mask * 100)


def too_much(*_):
    import torch  # noqa: PLC0415 (no worker is to import it earlier for the test's sake)

    torch.empty(1 << 50)


ACTIONS = {
    "kill9": kill9,
    "memory": too_much,
    "stop": stop,
    "half": half_a_file,
    "full": no_space,
    "nan": no_number,
    "spike": spike,
}


def wrap(function, when, action, counts):
    reached = 0

    def faulty(*args, **kwargs):
        nonlocal reached
        reached += 1
        if reached in counts and when in ("before", "instead"):
            action(*args)
        result = function(*args, **kwargs)
        if reached in counts and when == "after":
            return action(result) or result
        return result

    return faulty


class Wrapper(importlib.abc.MetaPathFinder):
    """Wraps one function of one module as soon as the module has been loaded."""

    def __init__(self, module, function, when, action, counts):
        self.module, self.function, self.when, self.action, self.counts = module, function, when, action, counts

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.install(module)

        spec.loader.exec_module = exec_module
        return spec

    def install(self, module):
        original = getattr(module, self.function)
        setattr(module, self.function, wrap(original, self.when, self.action, self.counts))


fault = os.environ.get("NEOX_FAULT")
if fault and os.environ.get("RANK") == os.environ.get("NEOX_FAULT_RANK", "0"):
    point, action, counts = (fault.split(":") + ["1"])[:3]
    wrapper = Wrapper(*POINTS[point], ACTIONS[action], [int(count) for count in counts.split(",")])
    if wrapper.module in sys.modules:  # in a fork of a process that has imported it
        wrapper.install(sys.modules[wrapper.module])
    else:
        sys.meta_path.insert(0, wrapper)
