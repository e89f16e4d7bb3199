"""The mutants: known mistakes, as patches of the source that the general simulation must catch.

Each mutant replaces exact pieces of text, each of which must occur exactly once. `seeds` are seeds
known to kill it, tried first. The numbers M… are those of the reliability catalogue; the others
(A…) are mistakes that this design invites.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One replacement in one file of `dynagent/`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake."""

    name: str
    what: str
    patches: tuple[Patch, ...]
    seeds: tuple[int, ...] = ()
    level: int = 1  # of the simulation that must catch it


def _mutant(name: str, what: str, *patches: tuple[str, str, str], seeds: tuple[int, ...]) -> Mutant:
    return Mutant(
        name=name,
        what=what,
        patches=tuple(Patch(file=file, old=old, new=new) for file, old, new in patches),
        seeds=seeds,
    )


def of_one_file(name: str, what: str, file: str, *patches: tuple[str, str], seed: int) -> Mutant:
    """A mistake in one file, with the seed that is known to kill it."""
    return _mutant(name, what, *((file, old, new) for old, new in patches), seeds=(seed,))


MUTANTS = (
    _mutant(
        "M1",
        "a replica acknowledges a Merge before it is fsynced",
        (
            "core/copies.py",
            "        if replica.when_durable(number, (link, request_id)):\n",
            "        if False:\n",
        ),
        seeds=(0, 2, 4),
    ),
    _mutant(
        "M1b",
        "the coordinator counts its own copy before it is fsynced",
        (
            "core/put.py",
            "is_refused and not coordinator.replica.when_durable(number, (None, self.number)):",
            "False:",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "M1-submit",
        "nobody waits for the disk: a write is acknowledged before it is even submitted",
        (
            "core/copies.py",
            "        if replica.when_durable(number, (link, request_id)):\n",
            "        if False:\n",
        ),
        (
            "core/put.py",
            "is_refused and not coordinator.replica.when_durable(number, (None, self.number)):",
            "False:",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "M2",
        "a second acknowledgement of one replica is counted",
        (
            "core/quorum.py",
            "if node in self.waiting:\n            self.waiting.remove(node)\n            self.c",
            "if True:\n            self.waiting.discard(node)\n            self.c",
        ),
        seeds=(6, 7, 15),
    ),
    _mutant(
        "M3",
        "a get answers with one copy less than R",
        (
            "core/get.py",
            "self.tally = GetQuorum([own], r, others)",
            "self.tally = GetQuorum([own], max(1, r - 1), others)",
        ),
        seeds=(5,),
    ),
    _mutant(
        "M4",
        "a Merge sent again is acknowledged while its first copy is not yet fsynced",
        (
            "core/replica.py",
            "            return self.batch_of(key)\n",
            "            return DURABLE\n",
        ),
        seeds=(0, 4, 6),
    ),
    _mutant(
        "M5",
        "the actor mark is kept across a crash",
        (
            "core/replica.py",
            "is_current = self.clean_from_run <= run <= self.run and",
            "is_current = run <= self.run and",
        ),
        seeds=(18, 11, 30),
    ),
    _mutant(
        "M6",
        "one actor for each node: an absent copy is minted on under the old actor",
        (
            "core/node.py",
            "        self.coordinator: Coordinator | None = None\n",
            "        self.coordinator: Coordinator | None = None\n"
            '        self.replica.actor = int.from_bytes(node_id.encode()[:7], "big")\n',
        ),
        (
            "core/replica.py",
            "        return self._dice.getrandbits(63) + 1, 1\n",
            "        actor = self.actor\n"
            "        seen = max(old.value.clock.get(actor, 0), context.get(actor, 0))\n"
            "        return actor, seen + 1\n",
        ),
        seeds=(11, 7),
    ),
    _mutant(
        "M7",
        "a record that cannot be read is taken for absent",
        ("core/entry.py", "UNREADABLE = Record(EMPTY, unknown=True)", "UNREADABLE = ABSENT"),
        seeds=(0, 1, 3),
    ),
    _mutant(
        "M12",
        "plain version vectors: a blind put swallows an earlier one of the same actor",
        (
            "core/siblings.py",
            "        kept = self._unseen(context)\n",
            "        kept = [s for s in self._unseen(context) if s.actor != sibling.actor]\n",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "A1",
        "a retry always mints again",
        (
            "core/look.py",
            "found = [node for node in states if states[node] in (OP_PRESENT, OP_SUPERSEDED)]",
            "found: list[NodeId] = []",
        ),
        seeds=(169,),
    ),
    _mutant(
        "A2",
        "an unreadable copy counts for R",
        (
            "core/quorum.py",
            "            self.add_failure(node)\n        elif reply.state == STATE_ABSENT",
            "            self._count(node)\n        elif reply.state == STATE_ABSENT",
        ),
        seeds=(6, 7, 31),
    ),
    _mutant(
        "A3",
        "a get's context joins clocks whose siblings it does not return",
        (
            "core/quorum.py",
            "            self.fetching.add(node)\n",
            "            self.fetching.add(node)\n"
            "            told = dict(unflatten(reply.clock))\n"
            "            mine = self.merged\n"
            "            self.merged = type(mine)(join(mine.clock, told), mine.siblings)\n",
        ),
        seeds=(2, 1),
    ),
    _mutant(
        "A4",
        "a put's reply hands out a context that claims siblings its writer has not seen",
        ("core/put.py", 'encoded=encoded) if alone else b""', "encoded=encoded)"),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "A5",
        "an overwrite supersedes what its coordinator holds, without asking the others",
        (
            "core/look.py",
            "self.context = join(self.context, self.look.clock)",
            "self.context = dict(self.context)",
        ),
        seeds=(0, 40, 29),
    ),
    _mutant(
        "A6",
        "a put that missed W is reported as refused",
        (
            "core/put.py",
            "        self.fail(WriteOutcomeUnknown(why))\n",
            "        self.fail(QuorumNotMet(why))\n",
        ),
        seeds=(5, 2, 7),
    ),
    _mutant(
        "A7",
        "merging keeps what the other side knows to be superseded",
        (
            "core/siblings.py",
            "                if sibling.counter > other.clock.get(sibling.actor, 0):\n",
            "                if True:\n",
        ),
        seeds=(0, 1, 3),
    ),
    _mutant(
        "A8",
        "gets see what is not yet committed",
        (
            "core/replica.py",
            "    def read(self, key: bytes, token: Token) -> Record:\n",
            "    def read(self, key: bytes, token: Token) -> Record:\n"
            "        if key in self._overlay:\n"
            "            return self._overlay[key][0]\n",
        ),
        seeds=(2, 4),
    ),
    _mutant(
        "A9",
        "a change starts from the committed copy, not from the one on its way",
        (
            "core/replica.py",
            "return overlaid[0] if overlaid is not None else self.read(key, token)",
            "return self.read(key, token)",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "A10",
        "a request whose time is up is dropped without an answer",
        (
            "core/coordinator.py",
            "            operation.on_deadline(now)\n",
            "            operation.finish()\n",
        ),
        seeds=(5, 6, 13),
    ),
    _mutant(
        "A11",
        "an unreadable copy is cured by the next Merge",
        (
            "core/replica.py",
            "since, old.unknown, content, digest)",
            "since, False, content, digest)",
        ),
        seeds=(633, 330, 21),
    ),
    _mutant(
        "A11b",
        "a merge takes the incoming record whole although it has not seen all of the own one",
        (
            "core/siblings.py",
            "            if counter > clock.get(actor, 0):\n                return False\n",
            "            pass\n",
        ),
        seeds=(2, 1, 3),
    ),
    _mutant(
        "A11c",
        "a merge of two values passes on the bytes of one",
        (
            "core/replica.py",
            "        content: bytes | None = None\n",
            "        content: bytes | None = incoming.content\n",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "A11d",
        "a read that has asked everybody counts who has not answered",
        (
            "core/quorum.py",
            "        self.waiting.update(targets)\n",
            "        self.counted += targets\n",
        ),
        seeds=(20, 6, 23),
    ),
    _mutant(
        "A12",
        "a delete forgets what it has seen",
        (
            "core/siblings.py",
            "        return Siblings(join(self.clock, context), tuple(self._unseen(context)))\n",
            "        return Siblings(self.clock, tuple(self._unseen(context)))\n",
        ),
        seeds=(95, 5, 84),
    ),
    _mutant(
        "A13",
        "a record that has forgotten op-ids takes an old retry for a new put",
        (
            "core/put.py",
            "return OP_FORGOTTEN if len(record.op_ids) >= limits.OP_IDS_KEPT else OP_UNKNOWN",
            "return OP_UNKNOWN",
        ),
        seeds=(3499, 481, 173),
    ),
    _mutant(
        "A14",
        "a router tries a put at the next owner when the first one fails",
        (
            "core/router.py",
            "        if isinstance(self.message, Get) and self._try_next(now):\n",
            "        if self._try_next(now):\n",
        ),
        seeds=(199, 252, 330),
    ),
    _mutant(
        "A15",
        "a retry found in the own copy is acknowledged although that copy has rotted meanwhile",
        (
            "core/look.py",
            "            self._complete_own(now)\n",
            "            self._complete(now)\n",
        ),
        seeds=(238, 550, 95),
    ),
    _mutant(
        "M9",
        "a hint is removed when it is sent, not when it is acknowledged",
        (
            "core/delivery.py",
            "        target.operation = PageOperation(self, now, node, sent)\n",
            "        target.operation = PageOperation(self, now, node, sent)\n"
            "        self._settle(node, sent)\n",
        ),
        seeds=(0, 1),
    ),
    _mutant(
        "H1",
        "a hint is settled although its copy has changed since it was sent",
        (
            "core/delivery.py",
            "if record.unknown or now_there != digest:",
            "if record.unknown:",
        ),
        seeds=(16, 10, 11),
    ),
    _mutant(
        "H2",
        "a stand-in drops a copy that it still owes to somebody else",
        (
            "core/delivery.py",
            " or hints.owed(token, key):\n                continue\n",
            ":\n                continue\n",
        ),
        seeds=(8, 0),
    ),
    _mutant(
        "H3",
        "a stand-in acknowledges without keeping a hint",
        (
            "core/copies.py",
            "owed = replica.owe([NodeId(message.hint_for)], key, token)",
            "owed = 0",
        ),
        seeds=(8, 0),
    ),
    _mutant(
        "H4",
        "a stand-in at its bound acknowledges what it does not keep",
        (
            "core/copies.py",
            "            replica.check_hint_room(entries)\n",
            "            try:\n"
            "                replica.check_hint_room(entries)\n"
            "            except Exception:\n"
            "                entries = []\n",
        ),
        seeds=(69,),
    ),
    _mutant(
        "H5",
        "past its bound an owner notes nothing at all",
        (
            "core/hints.py",
            "return self._mark(batch, target, partition, copy_in)",
            "return DURABLE",
        ),
        seeds=(25, 5),
    ),
    _mutant(
        "H6",
        "a dirty partition is noted in memory only",
        (
            "core/hints.py",
            "self._marking[place] = self._changed_in = batch.number",
            "self._marking[place] = DURABLE",
        ),
        seeds=(654, 103, 42),
    ),
    _mutant(
        "H7",
        "a dirty partition is cleared when its walk begins, not when it has ended",
        (
            "core/delivery.py",
            "            self._send(now, walk.target, target, [], entries, barriers, stamp)\n",
            "            self._send(now, walk.target, target, [], entries, barriers, stamp)\n"
            "            walk.finish()\n",
        ),
        seeds=(738, 654, 1261),
    ),
    _mutant(
        "H8",
        "a dropped copy goes on counting towards the bound",
        (
            "core/replica.py",
            "hints.resize(self._open, token, _size(record) - _size(old))",
            "hints.resize(self._open, token, max(0, _size(record) - _size(old)))",
        ),
        seeds=(8,),
    ),
    _mutant(
        "A16",
        "an attempt that another one has overtaken at its coordinator mints again",
        (
            "core/put.py",
            "if not old.unknown and op_state(old, put.op_id) in (OP_PRESENT, OP_SUPERSEDED):",
            "if False:",
        ),
        seeds=(235, 71, 201),
    ),
    _mutant(
        "A17",
        "after a full disk refused a batch, its dots are minted again",
        (
            "core/replica.py",
            "self.clean_from_run <= run <= self.run and actor not in self._burnt",
            "self.clean_from_run <= run <= self.run",
        ),
        seeds=(57, 30),
    ),
    _mutant(
        "L1",
        "a listing trusts one owner only",
        ("client/listing.py", "    return max(r, n - w + 1)\n", "    return 1\n"),
        seeds=(5, 0, 4),
    ),
    _mutant(
        "L2",
        "a listing takes a copy that cannot be read for absent",
        (
            "client/listing.py",
            "return token + key, (clock, dots) if clock else None",
            "return token + key, (clock, dots)",
        ),
        seeds=(11, 1),
    ),
    _mutant(
        "L3",
        "a listing shows what one of its owners knows to be superseded",
        (
            "client/listing.py",
            "        dots = [d for d in dots if d in theirs or d[1] > their_clock.get(d[0], 0)]\n",
            "        dots = list(dots)\n",
        ),
        seeds=(6, 11, 4),
    ),
    _mutant(
        "L4",
        "an owner that takes over in a listing skips what is not decided yet",
        (
            "client/listing.py",
            "_Stream(self.decided)",
            "_Stream(max([self.decided, *(s.place for s in self._streams.values())]))",
        ),
        seeds=(16, 37, 21),
    ),
    _mutant(
        "M24-detector",
        "the failure detector goes by the wall clock",
        (
            "core/node.py",
            "            machine.on_tick(now)",
            "            at = self.wall_ms() / 1e3 if machine is self.detector else now\n"
            "            machine.on_tick(at)",
        ),
        seeds=(248, 43, 87),
    ),
    _mutant(
        "A-suspect",
        "who is suspect is not pinged any more",
        (
            "core/detector.py",
            "        is_free = peer.is_linked and peer.phase in (IDLE, PAUSE)",
            "        is_free = peer.is_alive and peer.phase in (IDLE, PAUSE)",
        ),
        seeds=(0, 7, 10),
    ),
    _mutant(
        "A-fresh",
        "who was heard from within two intervals is not pinged",
        (
            "core/detector.py",
            "now - peer.heard_at < self._timing.probe_interval_s / 2",
            "now - peer.heard_at < self._timing.probe_interval_s * 2",
        ),
        seeds=(147, 382),
    ),
    _mutant(
        "M11",
        "the last write by the wall clock wins",
        (
            "core/siblings.py",
            "        return Siblings(clock, _sorted(kept.values()))\n",
            "        latest = sorted(kept.values(), key=lambda s: decode(s.data)[2])[-1:]\n"
            "        return Siblings(clock, tuple(latest))\n",
        ),
        seeds=(0, 1, 2),
    ),
    _mutant(
        "M23",
        "a get that shall repair first answers first, and repairs behind its answer",
        (
            "core/readback.py",
            "        if not merged.value.clock or min(in_each) >= w:\n",
            "        if True:\n",
        ),
        seeds=(16, 1, 8),
    ),
    _mutant(
        "M23-fsync",
        "a get that repairs first counts its own copy before it is fsynced",
        (
            "core/readback.py",
            "own in self.held.waiting and not replica.when_durable(number, ",
            "own in self.held.waiting and 1 | replica.when_durable(number, ",
        ),
        seeds=(2, 6),
    ),
    _mutant(
        "M23-partial",
        "a get that repairs first takes the owners that it could not ask for equal",
        (
            "core/readback.py",
            "holders = [node for node in self.tally.holders(merged) if node in self.owners]",
            "holders = list(self.tally.counted)",
        ),
        seeds=(16, 1, 8),
    ),
    _mutant(
        "M27",
        "a stand-in counts although it shares a machine with an owner that counts",
        (
            "core/preference.py",
            "            may_share or host not in used or owner not in list_\n",
            "            True\n",
        ),
        seeds=(62,),
    ),
    _mutant(
        "C1",
        "the bound on siblings is never applied",
        (
            "core/crowd.py",
            "    if len(kept) < siblings_max and size <= bytes_max:\n",
            "    if size <= bytes_max:\n",
        ),
        seeds=(6, 1, 7),
    ),
    _mutant(
        "C2",
        "a merge over the bound on siblings is refused: copies stay apart",
        (
            "core/copies.py",
            "        number = replica.merge(\n",
            "        for key, record in entries:\n"
            "            both = replica.newest(key, token_of(key)).value.merge(record.value)\n"
            "            if len(both.siblings) > self.coordinator.siblings_max:\n"
            '                raise BadRequest("too many siblings")\n'
            "        number = replica.merge(\n",
        ),
        seeds=(10, 26, 44),
    ),
    _mutant(
        "C3",
        "a put is refused for siblings that it would supersede",
        (
            "core/crowd.py",
            "kept = [s for s in siblings if s.counter > context.get(s.actor, 0)]",
            "kept = list(siblings)",
        ),
        seeds=(5, 1, 4),
    ),
    _mutant(
        "G1",
        "the editions of facts are only compared for being equal: an older one wins too",
        (
            "core/gossip.py",
            "        return known is None or fact.edition > known.edition\n",
            "        return known is None or fact.edition != known.edition\n",
        ),
        (
            "core/gossip.py",
            "and fact.edition > theirs.get(node, (0, 0))",
            "and fact.edition != theirs.get(node, (0, 0))",
        ),
        seeds=(1,),
    ),
    _mutant(
        "G2",
        "a node writes what it knows itself into the facts of others",
        (
            "core/gossip.py",
            '_taken"] += 1\n                self._keep(now, fact)\n',
            '_taken"] += 1\n                self._keep(now, assert_fact(fact.node, fact.edition, '
            "self._draw(now), cluster_id=self._cluster_id))\n",
        ),
        seeds=(0, 1),
    ),
    _mutant(
        "G3",
        "gossip only pushes: nobody asks for what it lacks",
        ("core/gossip.py", "Facts(_page(news), wanted)", "Facts(_page(news), [])"),
        seeds=(5, 0),
    ),
    _mutant(
        "G4",
        "gossip only pulls: nobody tells what it knows",
        ("core/gossip.py", "Facts(_page(news), wanted)", "Facts([], wanted)"),
        seeds=(5, 2, 0),
    ),
    _mutant(
        "G5",
        "gossip asks the same peer again and again",
        (
            "core/gossip.py",
            "            while self._order:\n                peer = self._order.pop()\n",
            "            for peer in self._order:\n",
        ),
        seeds=(10, 24),
    ),
    _mutant(
        "G6",
        "the versions of facts begin anew with each start, and no run stands before them",
        (
            "core/gossip.py",
            "        self._edition: Edition = (run, 0)",
            "        self._edition: Edition = (1, 0)",
        ),
        seeds=(0, 1),
    ),
    _mutant(
        "G7",
        "what has changed in a bucket does not change its digest",
        (
            "core/gossip.py",
            "            self._digests[bucket] ^= self.facts[node].seal\n        self._d",
            "            self._digests[bucket] ^= fact.seal\n        self._d",
        ),
        seeds=(0, 1),
    ),
    _mutant(
        "E1",
        "an exchange passes over one of the branches that differ",
        (
            "core/descent.py",
            "range(number * ARITY, (number + 1) * ARITY)",
            "[n for n in range(number * ARITY, number * ARITY + 16) if n % ARITY != 7]",
        ),
        (
            "core/descent.py",
            "self._progress.open(partition, ARITY - 1)",
            "self._progress.open(partition, ARITY - 2)",
        ),
        seeds=(8, 4, 2),
    ),
    _mutant(
        "E2",
        "an exchange is one-sided: what the peer has more is not fetched",
        (
            "core/suspects.py",
            "            if self._moves:\n",
            "            if self._moves and not (is_news and not suspect.sends):\n",
        ),
        seeds=(4,),
    ),
    _mutant(
        "E3",
        "an exchange is one-sided: what the peer lacks is not sent",
        (
            "core/suspects.py",
            "            if self._moves:\n",
            "            if self._moves and is_news:\n",
        ),
        seeds=(0,),
    ),
    _mutant(
        "E4",
        "suspects do not rest before the second look",
        ("core/suspects.py", "(now + limits.EXCHANGE_REST_S, suspects)", "(now, suspects)"),
        seeds=(0,),
    ),
    _mutant(
        "E5",
        "the second look does not see that a copy has changed since the first",
        (
            "core/suspects.py",
            "(ours, theirs[0]) != (suspect.ours, suspect.theirs) or ours == theirs[0]",
            "False",
        ),
        seeds=(15, 19),
    ),
    _mutant(
        "E6",
        "an unknown node of a tree counts as equal",
        ("core/counterpart.py", "if our != their or not our", "if our != their and our"),
        (
            "core/descent.py",
            "                found = hashes(self._forest, level, numbers)\n",
            "                found = hashes(self._forest, level, numbers)\n"
            "                pairs = [p for p in zip(numbers, found) if p[1]]\n"
            "                for at in [n for n, f in zip(numbers, found) if not f]:\n"
            "                    self._progress.close(0.0, at // ARITY**level)\n"
            "                if not pairs:\n"
            "                    continue\n"
            "                numbers, found = [p[0] for p in pairs], [p[1] for p in pairs]\n",
        ),
        seeds=(18,),
    ),
    _mutant(
        "E7",
        "a job writes a partition down as done before what it sends is durable at the peer",
        (
            "core/exchange.py",
            "                self._under_way[kind] += 1\n                return ask\n",
            "                self._under_way[kind] += 1\n"
            '                if kind == "send":\n'
            "                    self._suspects.on_sent(now, ask.suspects)\n"
            "                    ask.suspects = []\n"
            "                return ask\n",
        ),
        seeds=(110, 109, 97),
    ),
    _mutant(
        "E8",
        "a job that was under way does not go on after a crash",
        (
            "core/jobs.py",
            "                self._unstarted.append(job)\n",
            "                pass\n",
        ),
        seeds=(21,),
    ),
    _mutant(
        "M8",
        "tombstones go when they are old enough, whoever has them",
        (
            "core/tombstones.py",
            "    return read_under < least\n",
            "    return False\n",
        ),
        ("core/tombstones.py", "    return all(settled)\n", "    return True\n"),
        (
            "core/tombstones.py",
            "    return is_tombstone and since < barrier\n",
            "    return is_tombstone\n",
        ),
        ("core/tombstones.py", "barrier == to - 1 and (owns or not holds)", "barrier == to - 1"),
        seeds=(2,),
    ),
    _mutant(
        "T2",
        "only the owners have a say in when a tombstone goes",
        (
            "core/tombstones.py",
            "        members.update(dict.fromkeys(fallbacks(ring, partition)))\n",
            "",
        ),
        seeds=(8, 2),
    ),
    _mutant(
        "T4",
        "it does not matter under which barrier a tombstone has last changed",
        (
            "core/tombstones.py",
            "    return is_tombstone and since < barrier\n",
            "    return is_tombstone\n",
        ),
        seeds=(43,),
    ),
    _mutant(
        "T5",
        "tombstones are purged, and what was read before is still taken",
        (
            "core/tombstones.py",
            "    return read_under < least\n",
            "    return False\n",
        ),
        seeds=(2,),
    ),
    _mutant(
        "T6",
        "an owner refuses what is older as soon as it has moved",
        ("core/tombstones.py", "    return least if owns else to\n", "    return to\n"),
        seeds=(136,),
    ),
    _mutant(
        "T7",
        "a stand-in that has moved takes hints that are older",
        ("core/tombstones.py", "    return least if owns else to\n", "    return least\n"),
        seeds=(8, 2),
    ),
    _mutant(
        "T8",
        "the owners close a barrier before all have moved there",
        (
            "core/purge.py",
            "        is_level = max(standings) < to\n",
            "        is_level, to = True, max(standings) + 1\n",
        ),
        ("core/tombstones.py", "    return min(standings) >= barrier\n", "    return True\n"),
        seeds=(43, 98),
    ),
    _mutant(
        "T12",
        "the barriers are forgotten when the agent stops",
        (
            "core/barriers.py",
            "                if standing != _NOWHERE:\n",
            "                if False:\n",
        ),
        seeds=(117, 34),
    ),
    _mutant(
        "W1",
        "who joins is nobody to the detector: it is never used",
        (
            "core/detector.py",
            "        for node in sorted(names.keys() - self.peers):\n",
            "        for node in sorted(names.keys() - names.keys()):\n",
        ),
        seeds=(3, 4),
    ),
    _mutant(
        "W2",
        "facts of members that have left stay, and so do their digests",
        (
            "core/gossip.py",
            "        for node in self.facts.keys() - members:\n",
            "        for node in self.facts.keys() - self.facts.keys():\n",
        ),
        seeds=(1,),
    ),
    _mutant(
        "W3",
        "a copy is our own, or another's, by the ring that this node has started with",
        (
            "core/hints.py",
            "        self._own(batch, owned, set(self.owned - owned))\n",
            "        pass\n",
        ),
        seeds=(1,),
    ),
)
