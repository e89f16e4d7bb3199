"""`dynagent`: the node's own command line. It picks the real world and runs one agent in it."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

import trio

import dynagent
from dynagent import config as configuration
from dynagent.agent.agent import Agent
from dynagent.agent.writer import ThreadWriter
from dynagent.config import Config, load
from dynagent.env import Env
from dynagent.errors import DynagentError
from dynagent.net.tcp import TcpTransport
from dynagent.obs import log
from dynagent.store.datadir import DataDir

_FLAGS: dict[str, str] = {  # flags of `run` that set a knob of the same name
    "data_dir": "directory for this node's identity and records",
    "listen": "host:port for clients and peers (default 127.0.0.1:7411)",
    "advertise": "host:port by which others reach this agent",
    "name": "the node's name for people",
    "host": "label of the machine: copies go to distinct hosts",
    "zone": "label of the failure zone",
    "capacity": "weight of this node; 0 only routes",
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
        else:
            _run(options)
    except DynagentError as exc:
        print(f"dynagent: {exc.message}", file=sys.stderr)
        return exc.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynagent", description="A node of a dynctl cluster. See also: man dynagent, dynctl."
    )
    parser.add_argument("--version", action="version", version=f"dynagent {dynagent.__version__}")
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
    return parser


def _run(options: argparse.Namespace) -> None:
    names = [*_FLAGS, "insecure_bind"]
    overrides: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) is not None
    }
    config = load(options.config, overrides)
    if not config.host:
        config = configuration.with_host_name(config)
    log.setup(level=config.log_level, form=config.log_format)
    dice = random.SystemRandom()
    data_dir = DataDir.open(Path(config.data_dir), engine=config.engine, dice=dice)
    trio.run(_serve, config, data_dir, dice)


async def _serve(config: Config, data_dir: DataDir, dice: random.Random) -> None:
    transport = TcpTransport()
    env = Env(
        monotonic=time.monotonic,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        dice=lambda _name: dice,
        transport=transport,
        writer=ThreadWriter(transport),
    )
    await Agent(config, env, data_dir).run()


def _print_knobs() -> None:
    for name, kind, default, doc in configuration.knobs():
        print(f"{name} ({kind}, default {default})\n    {doc}")


if __name__ == "__main__":
    sys.exit(main())
