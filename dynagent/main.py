"""`dynagent`: the node's own command line. It picks the real world and runs one agent in it."""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

import dynagent
from dynagent import config as configuration
from dynagent import storetool
from dynagent.agent.agent import Agent
from dynagent.agent.notify import notify_supervisor
from dynagent.agent.watchdog import Watchdog
from dynagent.agent.writer import ThreadWriter
from dynagent.config import Config, load
from dynagent.core import siblings
from dynagent.env import Env
from dynagent.errors import CorruptRecord, DynagentError, OutdatedStore, StoreFailed, StoreLost
from dynagent.net.tcp import TcpTransport
from dynagent.obs import log
from dynagent.obs.pulse import Pulse
from dynagent.store.datadir import DataDir
from dynagent.store.setaside import set_aside

_FLAGS: dict[str, str] = {  # flags of `run` that set a knob of the same name
    "data_dir": "directory for this node's identity and records",
    "engine": "storage engine of a new data directory: sqlite or rocksdb",
    "listen": "host:port for clients and peers (default 127.0.0.1:7411)",
    "http": "host:port for /metrics, /healthz and /readyz (default: off)",
    "advertise": "host:port by which others reach this agent",
    "name": "the node's name for people",
    "host": "label of the machine: copies go to distinct hosts",
    "zone": "label of the failure zone",
    "capacity": "weight of this node; 0 only routes",
    "seeds": "host:port,… of members, to come back by itself with a new store",
    "cluster_id": "refuse to start with the data directory of another cluster",
    "log_level": "debug, info, warning or error",
    "log_format": "logfmt or json",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "config":
            _print_knobs()
        elif options.command == "store":
            return storetool.run(options)
        else:
            _run(options)
    except DynagentError as exc:
        print(f"dynagent: {exc.message}{_remedy(exc)}", file=sys.stderr)
        return exc.exit_status
    except OSError as exc:
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        print(f"dynagent: {exc.strerror}; allow it more (ulimit -n, LimitNOFILE=)", file=sys.stderr)
        return 1
    return 0


def _remedy(exc: DynagentError) -> str:
    """For what the engine cannot read at a start; other errors name their own."""
    if not isinstance(exc, CorruptRecord):
        return ""
    return "; dynagent store rebuild keeps what can be read, and the cluster heals the rest"


def modules() -> str:
    """What the node's hot path was built to, see hatch_build.py: "compiled", or "plain" Python."""
    return "plain" if str(siblings.__file__).endswith(".py") else "compiled"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynagent", description="A node of a dynctl cluster. See also: man dynagent, dynctl."
    )
    version = f"dynagent {dynagent.__version__} ({modules()} modules)"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the agent in the foreground",
        epilog="example: dynagent run --data-dir /var/lib/dynagent --listen 127.0.0.1:7411",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML file; flags win over it")
    for name, text in _FLAGS.items():
        kind = int if name == "capacity" else str
        run.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=text)
    run.add_argument(
        "--insecure-bind",
        action="store_true",
        default=None,
        help="listen beyond loopback without encryption or authentication",
    )
    commands.add_parser("config", help="print every knob of the configuration file")
    storetool.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> None:
    names = [*_FLAGS, "insecure_bind"]
    overrides: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) is not None
    }
    config = configuration.resolved(load(options.config, overrides))
    log.setup(level=config.log_level, form=config.log_format)
    dice = random.SystemRandom()
    path = Path(config.data_dir)
    while True:
        try:
            data_dir = DataDir.open(path, engine=config.engine, dice=dice)
            try:
                on_hangup = partial(_reload, options.config, overrides)
                trio.run(_serve, config, data_dir, dice, on_hangup)
            finally:
                # Of a start that failed, else the agent has. An engine that the interpreter closes
                # deletes its log without a word, and looks like one that lost it.
                with suppress(StoreFailed):
                    data_dir.close(clean=False)
            return
        except (StoreLost, OutdatedStore) as exc:
            if not configuration.seeds_of(config):
                raise  # nobody has said that it may come back by itself
            aside, new = set_aside(path, dice=dice)
            log.log(
                logging.ERROR, "store.set_aside", reason=exc.message, to=aside, node=new.node_id
            )


def _reload(path: Path | None, overrides: dict[str, Any]) -> None:
    """SIGHUP: the log's knobs take effect at once, every other one at the next start."""
    try:
        config = load(path, overrides)
    except DynagentError as exc:
        log.log(logging.WARNING, "config.refused", reason=exc.message)
        return
    log.setup(level=config.log_level, form=config.log_format)
    log.log(logging.INFO, "config.reloaded", log_level=config.log_level)


async def _serve(
    config: Config, data_dir: DataDir, dice: random.Random, on_hangup: Callable[[], None]
) -> None:
    transport = TcpTransport()
    stall_s = config.watchdog_stall_ms / 1000
    watchdog = Watchdog(stall_s) if stall_s else None
    env = Env(
        monotonic=time.monotonic,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        dice=lambda _name: dice,
        transport=transport,
        writer=ThreadWriter(transport),
        cpu_s=time.process_time,
        pulse=watchdog or Pulse(),
    )
    agent = Agent(config, env, data_dir)
    failure: DynagentError | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, agent, nursery, on_hangup)
        try:
            await _serve_http(agent, nursery)
            await agent.run(partial(_on_ready, watchdog))
        except DynagentError as exc:
            failure = exc  # out of the nursery, which would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _serve_http(agent: Agent, nursery: trio.Nursery) -> None:
    """From before the agent serves until after it has drained: a probe always gets an answer."""
    if agent.config.http:
        from dynagent.agent.http import HttpServer  # 0.1 s, for those who want it

        server = HttpServer(agent.node)
        agent.meter.http = await server.listen(agent.config.http)
        nursery.start_soon(server.serve)
        log.log(logging.INFO, "http.ready", listen=agent.meter.http)


def _on_ready(watchdog: Watchdog | None) -> None:
    gc.collect()
    gc.freeze()  # what start-up made lives for good; the collector need not look at it again
    # A request makes no cycles; looking for some every 700 objects cost a put 6 to 20 %.
    gc.set_threshold(50_000, 20, 50)
    if watchdog is not None:
        watchdog.start()  # after the long turns of starting
    notify_supervisor("READY=1")


async def _obey_signals(
    agent: Agent,
    nursery: trio.Nursery,
    on_hangup: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """SIGTERM and SIGINT drain, the second one stops; SIGHUP reads the configuration again."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                on_hangup()
            elif agent.node.stopping:
                agent.stop()
            else:
                notify_supervisor("STOPPING=1")
                nursery.start_soon(agent.drain)


def _print_knobs() -> None:
    for name, kind, default, doc in configuration.knobs():
        print(f"{name} ({kind}, default {default})\n    {doc}")


if __name__ == "__main__":
    sys.exit(main())
