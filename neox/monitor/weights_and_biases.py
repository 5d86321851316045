"""Metrics to Weights & Biases. Imported only where `use_wandb` is set: importing wandb takes a second.

The promise here is that training never waits for the tracker nor fails with it: one thread talks to wandb, an error is
said once, and where there is no key or no server the run is recorded on disk, to be uploaded by `wandb sync`.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import queue
import secrets
import shlex
import socket
import string
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb

from neox.config.sections import MonitorConfig

DEFAULT_HOST = MonitorConfig.model_fields["wandb_host"].default
FLUSH_SECONDS = 1.0  # a killed run loses at most this much of its offline record (wandb's own default is 15)
CONNECT_SECONDS = 3.0
INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0  # how long the end of a run waits for its last upload
WAITING_REPORTS = 10_000


def new_run_id() -> str:
    """Eight random letters and digits, as wandb makes them."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def server(configured: str, environment: dict[str, str]) -> str:
    """Address of the server: as configured, else WANDB_BASE_URL, else wandb's own."""
    return configured if configured != DEFAULT_HOST else environment.get("WANDB_BASE_URL", DEFAULT_HOST)


def has_key(host: str, environment: dict[str, str]) -> bool:
    """Whether wandb will find credentials for the server: in the environment, or in the netrc file of `wandb login`."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlsplit(host).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(host: str) -> bool:
    """Whether a connection to the server, or to the proxy that leads there, opens within CONNECT_SECONDS."""
    address = urlsplit(host)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def why_offline(mode: str | None, host: str, environment: dict[str, str]) -> str | None:
    """Why the run cannot or shall not be online; None where it can. `mode` "online" skips the try to connect."""
    if mode in ("offline", "dryrun"):
        return "as configured"
    if not has_key(host, environment):
        return "no key: set WANDB_API_KEY or run `wandb login`"
    if mode != "online" and not reachable(host):
        return f"{host} cannot be reached"
    return None


class WeightsAndBiases:
    """Reports to one wandb run, from a thread of its own."""

    def __init__(self, config: MonitorConfig, run_config: dict[str, Any], run_id: str | None) -> None:
        self.run_id = run_id or new_run_id()
        self._config = config
        self._run_config = run_config
        self._reports: queue.Queue[tuple[int, dict[str, float]] | int] = queue.Queue(WAITING_REPORTS)
        self._full = False
        # a daemon: where wandb hangs, the process must still be able to end
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Pass the metrics of one iteration on; never waits."""
        try:
            self._reports.put_nowait((iteration, metrics))
        except queue.Full:
            if not self._full:
                print("Weights & Biases does not keep up: some metrics will be missing there", flush=True)
            self._full = True

    def close(self) -> None:
        """End the run, as failed while an exception is on its way; waits a limited time for what was not sent yet."""
        exit_code = 0 if sys.exc_info()[0] is None else 1
        try:
            self._reports.put_nowait(exit_code)
        except queue.Full:
            return
        self._thread.join(timeout=INIT_SECONDS + FINISH_SECONDS)

    def _work(self) -> None:
        run = None
        try:
            run = self._start()
            while not isinstance(item := self._reports.get(), int):
                iteration, metrics = item
                # committed at once, so that the flush interval holds for the last step of a killed run too
                run.log({"iteration": iteration, **metrics}, step=iteration, commit=True)
            run.finish(exit_code=item)
        except Exception as error:  # whatever a tracker raises, the training is worth more
            rest = "" if run is None else f". To upload what it has: {sync_command(run)}"
            print(f"Weights & Biases stopped ({readable(error)}); training goes on without it{rest}", flush=True)
        stop_wandb()

    def _start(self) -> wandb.Run:
        host = server(self._config.wandb_host, dict(os.environ))
        reason = why_offline(self._config.wandb_mode or os.environ.get("WANDB_MODE"), host, dict(os.environ))
        if reason is None:
            try:
                run = self._init("online", host)
                print(f"Weights & Biases: {run.url}", flush=True)
                return run
            except Exception as error:  # wandb raises errors of many kinds here, and none may stop the training
                reason = readable(error)
                # the failed start still holds the run's id
                stop_wandb()
        run = self._init("offline", host)
        print(f"Weights & Biases is offline ({reason}). To upload this run: {sync_command(run)}", flush=True)
        return run

    def _init(self, mode: str, host: str) -> wandb.Run:
        config = self._config
        if config.log_dir is not None and "WANDB_DIR" not in os.environ:
            folder = Path(config.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = None
        run = wandb.init(
            mode=mode,
            project=config.wandb_project,
            group=config.wandb_group,
            entity=config.wandb_team,
            name=config.wandb_run_name,
            id=self.run_id,
            # online only: an offline run cannot ask the server what it has
            resume="allow" if mode == "online" else None,
            config=self._run_config,
            dir=folder,
            settings=wandb.Settings(
                base_url=host,
                # the progress line would be recorded frame by frame
                console="off",
                silent=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        return run


def sync_command(run: wandb.Run) -> str:
    """The command that uploads what is on disk of a run."""
    folder = Path(run.settings.sync_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    host = run.settings.base_url
    elsewhere = "" if host == DEFAULT_HOST else f"WANDB_BASE_URL={host} "
    return f"{elsewhere}wandb sync {shlex.quote(str(folder))}"


def readable(error: Exception) -> str:
    """The first line of an error, without the key should wandb have quoted it."""
    text = str(error).partition("\n")[0] or type(error).__name__
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text


def stop_wandb() -> None:
    """End wandb's own process, so that its exit hook finds nothing to wait for or to complain about."""
    # the process may be gone already, which is what we want
    with contextlib.suppress(Exception):
        wandb.teardown()
