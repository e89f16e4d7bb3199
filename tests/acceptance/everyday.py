"""What people do every day, through the command line: the whole corpus goes in with `dynctl mput`
and comes out with `dynctl mget`, byte-identical and in constant memory, also while an agent is
killed and started again."""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from dynagent import limits
from dynctl.views.base import Base64, text_of
from dynctl.views.siblings import GetRecord, PutRecord
from tests.acceptance.corpus import Corpus
from tests.acceptance.points import Failed, Say
from tests.real.cluster import RealCluster
from tests.real.command import Usage, run_dynctl

HARD_MAX = limits.VALUE_BYTES_HARD_MAX
# By which peak memory may grow for each further record of one size. Any object that were kept of it
# takes more; half a MiB is noise, whatever their number (of 10,000 to 250,000 records).
KEPT_BYTES_MAX = 16
EVEN_RECORDS, EVEN_RECORDS_MIN = 50_000, 20_000
# The corpus has values of 1 byte to 1 MiB side by side, so its peak depends on which of them meet
# in the window, and on what malloc keeps between them. It must stay under this, however many there
# are: dynctl itself, and the window's bytes as line, value, frame and record.
PEAK_KIB_MAX = 64 * limits.KIB + 4 * limits.BULK_BYTES_MAX // limits.KIB

_Record = TypeVar("_Record", PutRecord, GetRecord)


def run(share: float, say: Say) -> dict[str, object]:
    """All of it; returns the figures, raises `Failed` at the first point that does not hold."""
    corpus = Corpus(share)
    say(f"{len(corpus):,} records, {len(corpus.large):,} files over the limit")
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 3, partitions=256) as cluster,
    ):
        day = Day(cluster, corpus, Path(directory), say)
        figures: dict[str, object] = {"records": len(corpus)}
        figures["even"] = day.compare(max(EVEN_RECORDS_MIN, round(EVEN_RECORDS * share)))
        prefixes = ["1/", "2/", "3/"]
        for verb, job in (("mput", day.put), ("mget", day.get)):
            usage = job(prefixes)
            figures[f"{verb} three times"] = day.told(f"{verb} three times", usage, 3)
            if usage.peak_kib > PEAK_KIB_MAX:
                raise Failed(f"{verb}: {usage.peak_kib:,} KiB, over {PEAK_KIB_MAX:,}")
        figures["refused_by_the_limit"] = day.refuse()
        usage = day.put(["killed/"], victim=1)
        figures["mput, agent killed"] = day.told("mput, agent killed and started", usage, 1)
        usage = day.get([*prefixes, "killed/"])
        figures["mget of all after it"] = day.told("mget of all after it", usage, 4)
    return figures


class Day:
    """A cluster, and the corpus as lines under one or more prefixes."""

    def __init__(self, cluster: RealCluster, corpus: Corpus, directory: Path, say: Say) -> None:
        self._cluster = cluster
        self._corpus = corpus
        self._in, self._out = directory / "in.jsonl", directory / "out.jsonl"
        self._say = say

    def records(self, prefixes: list[str]) -> Iterator[tuple[bytes, bytes]]:
        for prefix in prefixes:
            for key, value in self._corpus.records():
                yield prefix.encode() + key, value

    def put(self, prefixes: list[str], *, victim: int | None = None) -> Usage:
        """mput of all; every one must be stored."""
        self._write(self.records(prefixes))
        usage = self._run("mput", victim=victim)
        if usage.status or usage.told:
            raise Failed(f"mput: exit status {usage.status}: {usage.told}")
        answers = self._answers(PutRecord)
        for (key, _), record in zip(self.records(prefixes), answers, strict=True):
            if (record.key, record.status) != (text_of(key), "ok"):
                raise Failed(f"put of {key!r}: {record}")
        return usage

    def compare(self, count: int) -> dict[str, list[int]]:
        """Peak KiB of mput and mget for so many records of 100 bytes, and for five times those."""
        peaks: dict[str, list[int]] = {"mput": [], "mget": []}
        for times in (1, 5):
            self._write((b"even/%d" % (n % count), b"v" * 100) for n in range(times * count))
            for verb, found in peaks.items():
                usage = self._run(verb)
                if usage.status or usage.told:
                    raise Failed(f"{verb}: exit status {usage.status}: {usage.told}")
                found.append(usage.peak_kib)
        self._say(f"peak KiB for {count:,} records and for five times those: {peaks}")
        for verb, (few, many) in peaks.items():
            if (many - few) * limits.KIB > 4 * count * KEPT_BYTES_MAX:
                raise Failed(f"{verb}: {few:,} KiB grow to {many:,} with five times the records")
        return peaks

    def refuse(self) -> int:
        """mput of the files over the limit: each is refused by name, one by one."""
        large = self._corpus.large
        self._write((key, path.read_bytes()) for key, path in large.items())
        usage = self._run("mput")
        if usage.status != (11 if large else 0):
            raise Failed(f"mput over the limit: exit status {usage.status}: {usage.told}")
        answers = self._answers(PutRecord)
        for (key, path), record in zip(large.items(), answers, strict=True):
            # Of a line that is longer than any value can be not even the key is kept.
            keys = [text_of(key)] if path.stat().st_size < HARD_MAX else [text_of(key), None]
            told = record.error or ""
            if record.key not in keys or record.status != "failed" or "keep large" not in told:
                raise Failed(f"{key!r} is over the limit: {record}")
        return len(large)

    def _write(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        encode = msgspec.json.encode
        with self._in.open("wb") as file:
            for key, value in records:
                file.write(encode({"key": text_of(key), "value": text_of(value)}) + b"\n")

    def get(self, prefixes: list[str]) -> Usage:
        """mget of all; every one must have the bytes that were put."""
        with self._in.open("wb") as file:
            for key, _ in self.records(prefixes):
                file.write(msgspec.json.encode({"key": text_of(key)}) + b"\n")
        usage = self._run("mget")
        if usage.status or usage.told:
            raise Failed(f"mget: exit status {usage.status}: {usage.told}")
        answers = self._answers(GetRecord)
        for (key, value), record in zip(self.records(prefixes), answers, strict=True):
            found = record.value
            got = b64decode(found.base64) if isinstance(found, Base64) else (found or "").encode()
            if (record.key, record.status) != (text_of(key), "ok") or got != value:
                raise Failed(f"get of {key!r}: not the bytes that were put")
        return usage

    def _run(self, verb: str, *, victim: int | None = None) -> Usage:
        """With a victim: it is killed at a third of the records, and started at two thirds."""
        steps: list[tuple[float, Callable[[], object]]] = []
        if victim is not None:
            agent = self._cluster.agents[victim]
            steps = [(1 / 3, agent.kill), (2 / 3, agent.start)]
        count = len(self._corpus)

        def on_poll() -> None:
            # A record of mput has 60 bytes and more, whatever its value is.
            if steps and self._out.stat().st_size > steps[0][0] * count * 60:
                steps.pop(0)[1]()

        usage = run_dynctl(
            verb,
            endpoints=self._cluster.addresses,
            stdin=self._in,
            stdout=self._out,
            on_poll=on_poll,
        )
        if steps:
            raise Failed(f"{verb} of {count:,} records ended before the agent was started again")
        if victim is not None:
            self._cluster.start()  # waits until it answers
            self._cluster.wait_ready()
        return usage

    def _answers(self, kind: type[_Record]) -> Iterator[_Record]:
        decoder = msgspec.json.Decoder(kind)
        with self._out.open("rb") as file:
            for line in file:
                yield decoder.decode(line)

    def told(self, what: str, usage: Usage, times: int) -> dict[str, object]:
        count = times * len(self._corpus)
        figures = {
            "records": count,
            "per_s": round(count / usage.elapsed_s),
            "dynctl_cpu_us": round(usage.cpu_s / count * 1e6, 1),
            "dynctl_peak_kib": usage.peak_kib,
        }
        self._say(
            f"{what}: {count:,} records, {figures['per_s']:,}/s, dynctl "
            f"{figures['dynctl_cpu_us']} µs a record, peak {usage.peak_kib / 1024:.1f} MiB"
        )
        return dict(figures)
