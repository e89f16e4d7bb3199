"""`dynagent store …`: looks after the store of a stopped agent, by itself, without a cluster.

    check     what is wrong with it: one finding a line; exit status 12 if there is any
    damage    damages it on purpose, for drills and tests
    rebuild   makes a new one of what can be read; the other owners heal the rest
    accept    declares lost what the other owners cannot heal either

Findings and deeds are records: JSON Lines with `-o jsonl`, else lines for people. Words go to
stderr. A directory that an agent uses is refused (exit status 10).
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynagent.errors import BadRequest, Refused
from dynagent.store import drill
from dynagent.store.accept import Accepted, accept
from dynagent.store.datadir import DataDir, lock_stopped
from dynagent.store.drill import KINDS, Damage, Drill
from dynagent.store.examine import Examined, Finding, examine
from dynagent.store.rebuild import Rebuilt, rebuild

DIFFERENCES = 12  # the exit status of `dynctl verify` too


def add_commands(commands: Any) -> None:
    """`store` and what it can do, into the parser of `dynagent`."""
    store = commands.add_parser("store", help="look after the store of a stopped agent")
    verbs = store.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="say what is wrong with it: exit status 0 if nothing is, 12 if something is",
        epilog="example: dynagent store check /var/lib/dynagent",
    )
    damage = verbs.add_parser(
        "damage",
        help="damage it on purpose, for drills: flip bits, lose, misplace or miss records",
        epilog="example: dynagent store damage /var/lib/dynagent lose --count 10 --seed 1 --yes",
    )
    anew = verbs.add_parser(
        "rebuild",
        help="set a damaged engine aside, and make a new one of what can be read of it; the rest"
        " comes from the other owners once the agent runs",
        epilog="example: dynagent store rebuild /var/lib/dynagent --yes",
    )
    anew.add_argument("--yes", action="store_true", help="really do it")
    anew.add_argument(
        "--from",
        dest="agent",
        metavar="HOST:PORT",
        help="another agent of the cluster, for a store that has lost the ring itself",
    )
    given_up = verbs.add_parser(
        "accept",
        help="declare lost what this store has lost, where no other owner can say what it was:"
        " what is left counts again, and acknowledged writes that only stood here are gone",
        epilog="example: dynagent store accept /var/lib/dynagent --partition 7 --yes",
    )
    given_up.add_argument("--key", action="append", default=[], help="only of this one; repeatable")
    given_up.add_argument(
        "--partition", type=int, action="append", default=[], help="only of this one; repeatable"
    )
    given_up.add_argument("--yes", action="store_true", help="really do it")
    for verb in (check, damage, anew, given_up):
        verb.add_argument("dir", type=Path, metavar="DIR", help="the agent's data directory")
        verb.add_argument("-o", dest="form", choices=("plain", "jsonl"), default="plain",
                          help="lines for people, or JSON Lines")  # fmt: skip
    damage.add_argument(
        "kind",
        choices=KINDS,
        metavar="KIND",
        help="flip: bits rot; lose: rows vanish unnoticed; misplace: records land elsewhere;"
        " miss: records go as if they had never come, so that this replica differs from others",
    )
    damage.add_argument("--key", action="append", default=[], help="this record; may be repeated")
    damage.add_argument("--count", type=int, help="so many records, or bits of files, at random")
    damage.add_argument(
        "--partition", type=int, action="append", default=[], help="only of this one; repeatable"
    )
    damage.add_argument("--file", help="flip: a bit of this file of the directory")
    damage.add_argument("--offset", type=int, help="flip: of this byte of --file")
    damage.add_argument("--bit", type=int, choices=range(8), help="flip: this bit of the byte")
    damage.add_argument("--seed", type=int, help="of the dice: the same damage again")
    damage.add_argument("--yes", action="store_true", help="really do it")


def run(options: argparse.Namespace) -> int:
    """Runs a verb; returns the exit status."""
    if options.verb == "check":
        return _check(options)
    if options.verb == "rebuild":
        return _rebuild(options)
    if options.verb == "accept":
        return _accept(options)
    return _damage(options)


def _check(options: argparse.Namespace) -> int:
    findings = 0
    for found in examine(options.dir, dice=random.SystemRandom()):
        if isinstance(found, Examined):
            told = f"{found.records:,} records ({found.value_bytes:,} bytes) examined"
            print(f"dynagent: store check: {told}, {findings:,} findings", file=sys.stderr)
        else:
            findings += 1
            _print(found, options.form)
    return DIFFERENCES if findings else 0


def _rebuild(options: argparse.Namespace) -> int:
    if not options.yes:
        raise Refused(f"this replaces the engine of {options.dir}; say --yes if you want that")
    ring = None
    if options.agent is not None:
        from dynagent.client.blocking import Client

        with Client([options.agent]) as client:
            ring = client.ring()
    _print(rebuild(options.dir, dice=random.SystemRandom(), ring=ring), options.form)
    return 0


def _accept(options: argparse.Namespace) -> int:
    if not options.yes:
        raise Refused(
            f"this declares lost what {options.dir} has lost, if no other owner holds it; "
            f"say --yes if you want that"
        )
    done = 0
    for accepted in accept(
        options.dir,
        keys=_keys(options),
        partitions=options.partition,
        dice=random.SystemRandom(),
    ):
        done += 1
        _print(accepted, options.form)
    if not done:
        print("dynagent: store accept: nothing there is unknown", file=sys.stderr)
    return 0


def _keys(options: argparse.Namespace) -> list[bytes]:
    return [key.encode("utf-8", "surrogateescape") for key in options.key]


def _damage(options: argparse.Namespace) -> int:
    if not options.yes:
        raise Refused(f"this damages {options.dir} for good; say --yes if that is what you want")
    if options.count is not None and options.count < 1:
        raise BadRequest(f"--count {options.count}: at least 1")
    dice = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
    by_file = options.kind == "flip" and not options.key and not options.partition
    for damage in _flips(options, dice) if by_file else _deeds(options, dice):
        _print(damage, options.form)
    return 0


def _flips(options: argparse.Namespace, dice: random.Random) -> Iterator[Damage]:
    """Bits of the files, which are not opened as a store."""
    import os

    if options.file is None and (options.offset is not None or options.bit is not None):
        raise BadRequest("--offset and --bit go with --file")
    lock = lock_stopped(options.dir)
    try:
        for _ in range(options.count or 1):
            if options.file is not None and options.offset is not None:
                bit = options.bit if options.bit is not None else dice.randrange(8)
                yield drill.flip_at(_file(options), options.offset, bit)
            elif options.file is not None:
                yield drill.flip_anywhere([_file(options)], dice)
            else:
                yield drill.flip_anywhere(drill.files_of(options.dir), dice)
    finally:
        os.close(lock)


def _file(options: argparse.Namespace) -> Path:
    file: Path = options.dir / options.file
    if not file.is_file():
        raise BadRequest(f"{file} is no file; name one of {options.dir}, relative to it")
    return file


def _deeds(options: argparse.Namespace, dice: random.Random) -> Iterator[Damage]:
    if options.file is not None:
        raise BadRequest("--file goes with flip, and without --key and --partition")
    if not options.key and not options.partition and options.count is None:
        raise BadRequest(f"{options.kind} what? say --key, --partition or --count")
    data_dir = DataDir.open_stopped(options.dir, dice=random.SystemRandom())
    try:
        work = Drill(data_dir, dice)
        places = work.choose(keys=_keys(options), partitions=options.partition, count=options.count)
        yield from work.do(options.kind, places)
    finally:
        data_dir.close(clean=False)


# --- records -------------------------------------------------------------------------------------


def _print(record: Finding | Damage | Rebuilt | Accepted, form: str) -> None:
    fields = {
        name: _plain(value)
        for name, value in record._asdict().items()
        if value not in (None, b"", "")
    }
    if form == "jsonl":
        print(json.dumps({"schema_version": 1, **fields}, ensure_ascii=False))
    else:
        print(" ".join(f"{name}={_word(value)}" for name, value in fields.items()))


def _plain(value: object) -> object:
    """Bytes as `dynctl` prints them: text, or base64 where they are none."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
