"""Every bound of the system, each with its reason. Over a bound the answer is `Overloaded` or
`TooLarge`, at once; nothing here is a tuning knob (those are in `config.py`)."""

KIB = 1024
MIB = 1024 * KIB

# --- data ----------------------------------------------------------------------------------------
KEY_BYTES_MAX = 1 * KIB  # a key is an identifier, and travels in every message about its record
VALUE_BYTES_DEFAULT_MAX = 1 * MIB  # Dynamo §2.1: objects are usually below 1 MB
VALUE_BYTES_HARD_MAX = 8 * MIB  # the highest setting of the knob: one value must fit one frame
# What one put may make of a key: a record travels whole in one Merge. In a ring of more than three
# owners it is less, see RECORD_BYTES_MERGED_MAX.
RECORD_BYTES_MAX = 8 * MIB
# A put of a key with n siblings sends n + 1 to every owner, so a hundred blind writers cost as much
# as ten thousand. Riak fails at 100; 256 leaves room for a reader that is away for a while.
SIBLINGS_DEFAULT_MAX = 256
SIBLINGS_HARD_MAX = 1_024  # the highest setting of the knob: × N_MAX dots fit one list of a frame
SIBLINGS_WARN = 64  # from here on `dynctl put` says how many there are
CROWDED_KEPT = 16  # keys whose siblings are counted for `stats`: looked through at each change
META_BYTES_MAX = 4 * KIB  # headers of one value: content type and a few words
OP_IDS_KEPT = 8  # superseded op-ids that stay with a record (design §3): the reach of a safe retry
OP_ID_BYTES = 16  # 128 random bits: no coordination between clients needed

# --- ring ----------------------------------------------------------------------------------------
PARTITIONS_MIN = 8  # below this no balance is possible even for three nodes
PARTITIONS_MAX = 16_384  # with N_MAX owners of 2 bytes each: a quarter of RING_BYTES_MAX
N_MAX = 16  # more copies than this is a different problem
MEMBERS_MAX = 1_000  # "three to a few hundred hosts" with room to spare
RING_BYTES_MAX = 2 * MIB  # sent whole: twice 512 KiB of lists while all move, 500 bytes a member
CAPACITY_MAX = 1_000_000  # a weight: room for any two machines, and sums that stay small
VOTERS_MAX = 7  # of which three may be away; more would only make each decision slower

# --- the ring log (core.ringlog) -----------------------------------------------------------------
ENTRY_BYTES_MAX = RING_BYTES_MAX  # one that moves every partition names as many nodes as the ring
LOG_KEPT = 1_024  # entries: two each second at most while the ring changes, rows of some 100 bytes
LOG_PAGE_BYTES = 256 * KIB  # of entries in one message; a single one may be larger
LOG_ASKED_MAX = 2  # nodes asked for the same entries at once: one may hang
LOG_ANSWER_S = 5.0  # until one without an answer has failed: it may wait for an fsync
LOG_REST_S = 1.0  # before somebody who did not answer, or took nothing, is asked or told again
LOG_REFUSED_S = 10.0  # before entries that we do not follow are asked for again
LOG_NOTE_S = 60.0  # between two lines in the log about entries that are not taken
PROPOSE_S = 10.0  # until a proposal of the agent's own has failed
PROPOSALS_WAITING_MAX = 16  # of one agent: the operator's, and its own of three kinds
BALLOT_RESEND_S = 0.25  # to a voter without an answer: far over a round trip and an fsync
BALLOT_ANSWER_S = 1.0  # until one without an answer is asked again: far over a slow fsync
BALLOT_BACKOFF_S = 0.05  # after a ballot that was overtaken, at most; doubled each time
BALLOT_BACKOFF_S_MAX = 2.0  # some round trips and fsyncs, even of slow disks
VOTERS_REST_S = 10.0  # since others should vote, before that is proposed: two do not fight
# Indexes of one lineage of the log: at two entries a second it lasts for two months of nothing but
# changes. 429 lineages fit the 4 bytes of an index.
LINEAGE_ENTRIES_MAX = 10_000_000

# --- the start of a node (core.registration) -----------------------------------------------------
NONCE_BYTES = 8  # 64 random bits: two starts of one store never draw the same
# The last starts of a store that it can prove to be its own. A voter may have been away for some of
# them; what it knows of a start before them proves nothing. In an identity file they take 1,152
# bytes of the 4,056 in a slot.
STARTS_KEPT = 128
# Before a change that says where a node is reached is proposed again: it waits for other changes.
ADDRESS_REST_S = 5.0
ENTER_REST_S = 2.0  # before who has lost its store asks again to take its own place
REGISTRATION_ANSWER_S = 0.9  # until a voter without an answer counts as silent
REGISTRATION_HELD_S = 0.1  # before one is asked again that has said no, and why
REGISTRATION_RETRY_S = 1.0  # before a voter that has not recorded the start is asked again
# For the voters beyond the majority: two that start at once are then told apart. Who lives answers
# within a round trip; a dead one costs a restart this much.
REGISTRATION_PATIENCE_S = 1.0

# --- wire ----------------------------------------------------------------------------------------
FRAME_HEADER_BYTES = 4
HELLO_FRAME_BYTES_MAX = 4 * KIB  # what a stranger may make us read before it has said who it is
# cbor2 expands empty containers by up to 73 times; 64 KiB of them stay below 5 MiB of memory.
CONTROL_FRAME_BYTES_MAX = 64 * KIB
# A whole record with its key, clock and framing. Each coordinator refuses to mint past its own
# share, but all N owners can reach theirs at once, before they have heard of each other.
DATA_FRAME_BYTES_MAX = 4 * RECORD_BYTES_MAX
# So the share is at most the N-th part of this. The rest is for what may travel in the same frame
# (PACKED_BYTES_MAX, HINT_PAGE_BYTES), the clock, and headers, which are counted only once kept.
RECORD_BYTES_MERGED_MAX = DATA_FRAME_BYTES_MAX - 2 * MIB
RECEIVE_BYTES = 64 * KIB  # larger recv buffers cost an mmap and munmap per read
BUDGET_MS_MAX = 600_000  # ten minutes: a longer deadline is a job, not a request

# --- listing -------------------------------------------------------------------------------------
# A page is made on the event loop, while everybody else waits: 2 ms on SQLite for 200 records of
# 100 bytes, which are read, checked and taken apart, or for 500 that have not the prefix.
LISTING_ROWS_MAX = 200
LISTING_LOOK_ROWS_MAX = 500  # below the 512 that the engines read at once
LISTING_LOOK_BYTES_MAX = 512 * KIB  # of records looked at; the last one may go beyond
EXPORT_PAGE_BYTES = 512 * KIB  # of records: as many as a listing looks at
LISTING_PAGE_BYTES_MAX = 48 * KIB  # of rows, so that most pages fit a control frame

# --- hints ---------------------------------------------------------------------------------------
HINT_PAGE_ROWS = 128  # of one delivery: some milliseconds on either event loop
HINT_PAGE_BYTES = 256 * KIB  # of it; the last record may go beyond
HINT_PAGE_S = 10.0  # until a delivery without an answer has failed: a slow disk is no reason
HINT_REST_S = 1.0  # before a young hint, a second round, and after a first failure
# Two hours of a thousand puts of 1 KiB a second; delivered in 4 minutes at the default rate.
HINT_BYTES_DEFAULT_MAX = 8 * 1024 * MIB
OWNER_HINTS_DEFAULT_MAX = 1_000_000  # some 100 MB of rows, counted at each start
HINT_PAUSE_S_MAX = 30.0  # after failures; a target that comes up is tried at once
# An owner to be takes nothing before its fences: a round trip as a rule, so what it is owed does
# not wait much longer. Where fences wait for who is down, a page in so many seconds costs little.
HINT_PUT_OFF_S_MAX = 4.0

# --- Merkle exchange (core.exchange) -------------------------------------------------------------
EXCHANGE_NODES_MAX = 1_024  # of one Compare: hashes and numbers take 40 KiB of a control frame
EXCHANGE_STALE_MAX = 64  # groups of leaves that either side hashes for one Compare: 1.3 ms
EXCHANGE_PARTITIONS_MAX = 1_024  # of one exchange: their roots go in one Compare
EXCHANGE_LEAVES_MAX = 64  # of one LeafKeys: a thousand small records, or many empty leaves
EXCHANGE_LEAVES_WAITING_MAX = 1_024  # known to differ; more are not sought before these are listed
# A page of keys is made on the event loop, as one of a listing: its records are read and checked,
# a millisecond or two of small ones.
EXCHANGE_ROWS_MAX = 128
EXCHANGE_LOOK_BYTES_MAX = 128 * KIB  # of records looked at; the last one may go beyond
EXCHANGE_ROW_BYTES = 256  # to read and compare one costs a quarter of a record's CPU
EXCHANGE_READ_CHEAPER = 8  # bytes that are only read and checked, for one that is moved
EXCHANGE_ROWS_BYTES_MAX = 32 * KIB  # of keys and digests: below a control frame
READ_AHEAD_CACHE_BYTES_MIN = 2 * MIB  # a smaller cache would forget before it is asked
# A write in flight is on all owners' disks in some milliseconds, or is owed to them by a hint. What
# still differs after that long, unchanged on both sides, was missed.
EXCHANGE_REST_S = 0.5
EXCHANGE_SUSPECTS_MAX = 8_192  # keys at rest: 16,000 a second may differ
EXCHANGE_SUSPECT_BYTES_MAX = 2 * MIB  # of these keys
# Of one Merge or Look for records: 2 ms on either event loop, and four may come at once. With 256
# the clients' p99 was 50 to 100 ms while 16 partitions were refilled; with these 35, as fast.
EXCHANGE_PAGE_ROWS = 64
# Of it; the last record may go beyond. Eight at once are a commit of half a MiB, some milliseconds.
# Of values of 10 KiB 47 MB/s come in beside clients whose p99 is 10 ms; in pages of 256 KiB it was
# 50 from 30 MB/s on.
EXCHANGE_PAGE_BYTES = 64 * KIB
EXCHANGE_PAGES = 2  # of each kind under way: one travels while the other is written
EXCHANGE_ANSWER_S = 10.0  # until a message without an answer has failed: a slow disk is no reason
EXCHANGE_PAUSE_S_MAX = 30.0  # after failures
EXCHANGE_BUSY_S = 5.0  # after the last message about a partition it may be compared with another
# Until one that was is asked about again; until two are, of which one delivers hints to the other.
EXCHANGE_LATER_S = 1.0
EXCHANGE_TURN_S = 12.0  # longer than whoever was told so takes to ask again
# A round of roots that are equal is 10 KiB a peer, in 256 partitions; and what was missed in spite
# of hints and read repair waits no longer than that to be found.
ANTIENTROPY_INTERVAL_S_DEFAULT = 30.0
ANTIENTROPY_SPREAD = 1 / 4  # of the interval: by so much a round may be early, to be alone
ANTIENTROPY_UP_S = 2.0  # after a peer has come up: its hints go first

# --- transfers (core.transfer, core.driver, core.former) -----------------------------------------
TRANSFER_AT_ONCE = 4  # partitions that a new owner copies: each waits for a round trip a page
# Rows of a page of records, as for an exchange: more makes clients' p99 longer, and nothing faster.
TRANSFER_PAGE_ROWS = 64
TRANSFER_PAGE_BYTES = 256 * KIB  # of it; the last record may go beyond
TRANSFER_PARTITIONS_MAX = 1_024  # of one Fence: its reply has three numbers for each
TRANSFER_PULLS_WAITING_MAX = 256  # at a source, for its budget: four each of 64 new owners
TRANSFER_ANSWER_S = 10.0  # until a message without an answer has failed: a slow disk is no reason
TRANSFER_RETRY_S = 0.1  # after a first failure: most are rings that are a moment behind
TRANSFER_PAUSE_S_MAX = 5.0  # after more of them; a peer that comes up ends it
TRANSFER_STALE_MAX = 3  # pages read again because tombstones were purged meanwhile
TRANSFER_EXCEPTED_MAX = 1_000  # unreadable copies of one source: more, and it is none
TRANSFER_RECORD_BYTES = 200  # taken for the mean, before any has come: small ones are the costly
TRANSFER_ROW_BYTES = 50  # of a key and a digest on the wire
DRIVER_INTERVAL_S = 1.0  # between two entries of the log about one change: each is a ring for all
DRIVER_ANSWER_S = 5.0  # until a question of its without an answer has failed
DRIVER_SILENCE_S = 10.0  # before the next one drives as well: far over the time of an entry
TRANSFER_PACE_S = 15.0  # what is called the present rate is of so long
TRANSFER_PACE_STEP_S = 1.0

FORMER_LOOK_PARTITIONS = 64  # looked into at once for something left: 20 µs each if empty
FORMER_WINDOW_KEYS = 4_096  # compared at once with each owner; a group of leaves may go beyond
FORMER_DROP_ROWS = 64  # of one batch: 2 ms, as a page of records
REAIM_CHECK_S = 10.0  # between two looks for hints for who is no member any more
FORMER_REST_S = 1.0  # after a pass that could not clear any partition; doubled each time
FORMER_PAUSE_S_MAX = 30.0  # a peer that comes up ends it

# --- jobs (core.jobs) ----------------------------------------------------------------------------
JOBS_KEPT = 32  # with their reports, a row of the store each; the oldest that has ended makes room
JOBS_RUNNING_MAX = 8  # people start them by hand
JOB_SAVE_S = 1.0  # so much of its progress a crash may cost: it is done again
JOB_PATIENCE_S = 60.0  # for a peer that is down: a restart takes less

# --- tombstones (core.purge) ---------------------------------------------------------------------
# How long a tombstone stays at least, so that a client's retry finds its op-id beside it. Nothing
# about deletes depends on it. No request lives longer than BUDGET_MS_MAX.
TOMBSTONE_REST_S_DEFAULT = 600.0
TOMBSTONE_PAGE_ROWS = 256  # of one question or order: a millisecond on each owner's event loop
TOMBSTONE_PAGE_BYTES = 32 * KIB  # of their keys and digests: below a control frame
BARRIER_PARTITIONS_MAX = 256  # that one question tells of, or one order moves
BARRIER_ANSWER_S = 10.0  # until a question without an answer has failed: as for hints
NEWCOMER_REST_S = 0.25  # between two looks at whether it has taken up what it was told
PURGE_ROW_BYTES = 256  # what a row of it costs, against BACKGROUND_RECORD_BYTES of a record
PURGE_PAUSE_S = 1.0  # between two looks at whether something can be purged
PURGE_PAUSE_S_MAX = 30.0  # where something holds it back; doubled until then

# --- the agent -----------------------------------------------------------------------------------
CONNECTIONS_MAX = 4_096  # file descriptors: the usual soft limit minus room for the store
LINK_SILENT_S_MAX = 10.0  # a peer that was asked and says nothing for so long is dialled anew
HELLO_S_MAX = 5.0  # a connection that has not said Hello by then is closed (slowloris)
CLIENT_REQUESTS_MAX = 4_096  # gets, and puts, without an answer: two seconds of a slow core's work
# Gets, and puts, that are always taken: enough for a batch of records, or all that 64 connections
# have, whatever the rate of answers says while a disk hangs for a second.
CLIENT_REQUESTS_MIN = 256
ADMISSION_WAIT_S = 0.25  # far over a busy p99, a twentieth of a client's patience: tries are left
ADMISSION_INTERVAL_S = 0.5  # over a slow fsync or a pause, after which nothing stands
# Of one client connection: under way at once, which is what others meet at our peers, and beyond
# which batches become no cheaper; and taken in one turn, which is what they meet here.
CONNECTION_REQUESTS_MAX = 256
CONNECTION_REQUESTS_A_TURN = 32
CONNECTION_OUTBOX_PAUSE_BYTES = 8 * MIB  # unsent: nothing more of this client is read. One record
OUTBOXES_BYTES_MAX = 512 * MIB  # unsent bytes of all connections: over it the largest goes
SOCKET_BYTES_MAX = 16 * MIB  # what both kernels keep of a connection at most: 6 and 4 MiB on Linux
REQUESTS_IN_FLIGHT_MAX = 16_384  # tallies in the request table; each holds a few hundred bytes
REQUEST_BYTES_IN_FLIGHT_MAX = 256 * MIB  # records that tallies and the open batch keep alive
OUTBOX_BYTES_MAX = 64 * MIB  # unsent bytes of one connection: a reader slower than this is dropped
INBOX_REQUESTS_MAX = 256  # of one turn, before they are handled: enough to read in bulk
HEDGE_S = 0.05  # a read without its answer asks everybody: far over the p99 of a healthy cluster
REPAIR_BUDGET_MS = 5_000  # of a read repair, which nobody waits for
HEDGE_FACTOR = 4  # of the mean time of an answer, where all are slow: else overload feeds itself
PUT_HEDGE_S = 1.0  # a put without its W gives whoever hangs a stand-in: a second is no slow disk
HEDGE_S_MAX = 1.0  # the most that a hung owner may cost
RING_PAUSE_S = 0.02  # before a peer that lacks our ring is asked again: one round trip, one fsync
HOPS_MAX = 2  # agents that pass a request on: two views of who is up may differ, not circle
TRACE_BYTES_MAX = 32 * KIB  # of one request: some 400 events; it must fit an Error's frame
PACKED_MAX = 1_024  # requests, replies or acknowledgements in one frame: their ids take 9 KiB
PACKED_BYTES_MAX = 1 * MIB  # records packed into one frame: more only delays the first of them
PACKED_KEYS_BYTES_MAX = 32 * KIB  # keys packed into one Read: with their ids below a control frame
BATCH_RECORDS_MAX = 4_096  # one store batch: bounds the time until the first of it is answered
BATCH_BYTES_MAX = 32 * MIB  # and its memory
CACHE_SHARE = 16  # one of so many parts of the memory: in 16 GiB 2,000,000 records of 100 bytes
CACHE_BYTES_MAX = 1 << 40  # its parts are made at once: 65,536 of these
CACHE_BYTES_DEFAULT = 64 * MIB  # of a node that no program runs, in a test or a simulation
DISK_FULL_PAUSE_S = 1.0  # between two tries to write to a disk that was full

# --- the failure detector ------------------------------------------------------------------------
# A dead peer: half an interval while it counts as just heard from, 1 until its next turn, and two
# timeouts; one more if only our way to it is broken. 2.5 and 3 seconds, of two small frames each.
PROBE_INTERVAL_S_DEFAULT = 1.0
PROBE_TIMEOUT_S_DEFAULT = 0.5  # far over a round trip, and over the pauses of a busy machine
PROBES_PER_INTERVAL_MAX = (
    10  # in larger clusters a sweep takes longer; whom requests wait for comes first
)
PINGS_A_PHASE = 3  # of a probe: the first one may be lost, or its link just being made anew
PROBE_HELPERS = 3  # SWIM's k: 3 wrong answers at once are rare enough
RELAYS_MAX = 1_024  # pings for others under way: each member asks for one or two
LOCAL_HEALTH_MAX = 8  # Lifeguard's
SUSPICION_S_DEFAULT = 5.0  # until a suspect is called dead
GRAY_S_DEFAULT = 2.0  # far over a slow fsync, below the patience of a client
GRAY_REQUESTS = 3  # unanswered: one or two may be a slow disk, or a record that takes long
GRAY_BACKOFF_S_MIN = 2.0  # before a gray peer is tried again; doubled until it answers data, so
GRAY_BACKOFF_S_MAX = 30.0  # that one which hangs again and again costs a request in 30 s
FLAP_WINDOW_S = 60.0  # in which suspicions are counted
FLAPS_FREE = 2  # a restart and one more are nothing odd
FLAPS_KEPT = 7  # so at most 5 probes in a row: 1.25 s

# --- gossip --------------------------------------------------------------------------------------
GOSSIP_INTERVAL_S_DEFAULT = 1.0  # 200 nodes know a change in a few rounds; idle it is 300 bytes
GOSSIP_BUCKETS = 16  # a Gossip has 8 bytes for each; one fact differs: a sixteenth is compared
GOSSIP_PAGE_BYTES = 32 * KIB  # of facts, some 250: with the ids of all below a control frame
GOSSIP_NOTE_S = 60.0  # between two lines in the log about the same trouble
FACT_BYTES_MAX = 2 * KIB  # five texts and a dozen numbers, and as much again for later releases
FACT_TEXT_BYTES_MAX = 255  # of a name, address, label or release in a fact; the rest is cut off
EDITION_MAX = 2**62  # of a fact: starts of a node, assertions in one of them
# Load moves all the time. With one assertion in 10 s, 100 busy nodes cost each other 4 KiB/s.
LOAD_S = 10.0
LOAD_REST_S = 60.0  # until a small change is told too
LOAD_CHANGE_MIN = 1 / 8  # of a figure: less is noise
# --- background work (core.budget) ---------------------------------------------------------------
BACKGROUND_BYTES_PER_S_DEFAULT = 32 * MIB  # a quarter of a 1 Gbit/s link: 100 GB in an hour
BACKGROUND_BYTES_PER_S_MIN = 64 * KIB  # below this its floor is a record a second
FOREGROUND_P99_MS_DEFAULT = 50  # the paper's example (Dynamo §6.5)
FOREGROUND_WINDOW_S = 60.0  # the paper's "trailing 60 seconds"
FOREGROUND_SUB_WINDOW_S = 1.0  # a sudden rise is met after one
FOREGROUND_IDLE_S = 10.0  # without an answer for so long: nobody is there to be disturbed
FOREGROUND_JUDGED_MIN = 100  # of fewer answers the slowest is the p99
# 1/32 of the default is 1 MiB/s, or 256 small records: 4 % of a core, which no p99 can feel. And it
# is 84 GiB a day, so that the work of a node that is always too slow ends nevertheless.
BACKGROUND_SHARE_MIN = 1 / 32
BACKGROUND_SHARE_START = 1 / 4  # a new process has cold caches, and knows nothing of its clients
BACKGROUND_SHARE_FACTOR = 1 / 2  # from 1 to the floor in 5 s
BACKGROUND_SHARE_STEP = 1 / 64  # of a second, back in a minute: after a rise it feels its way
BACKGROUND_SHARE_LEAP_MAX = 4  # times as much in a second, before that, if clients hardly wait
# Where it has hardly been used for so long. Four keepers of hints that began with a third each held
# up clients for 5 s, and so they did where they came to a quarter within 4, whatever clients felt.
BACKGROUND_SHARE_UNUSED = 1 / 16
BACKGROUND_UNUSED_S = 10.0
BACKGROUND_BURST_S = 0.1  # what was not used is kept no longer: it would be moved in one go
BACKGROUND_GRANT_BYTES_MIN = 64 * KIB  # smaller ones would cost more in frames than they move
# What a smaller record costs in CPU: 8,192 of them a second are all that a node moves. With 1 KiB
# the clients' p99 was 200 to 460 ms while 16 partitions were refilled; with 5, 30 to 43 (and 18
# beside a join).
BACKGROUND_RECORD_BYTES = 4 * KIB

# --- Merkle trees --------------------------------------------------------------------------------
TREE_PARTITIONS_LARGE = 2_048  # beyond, trees have 16 leaves and not 256: 10 MiB of sums at most
# Of their journal. A slot has a page's worth of entries; 256 of them are 700 KB, read in 5 ms, and
# 46 MB if every batch is as large as may be.
TREE_SLOTS_MIN = 256
TREE_SLOT_ENTRIES = 64
TREE_REBUILD_RECORDS = 200  # of unknown leaves, in one go: 2 ms
TREE_TURN_S = 0.02  # before the next go: a tenth of a core at the most
TREE_REST_S = 5.0  # before what could not be read is tried again

# --- healing and scrub (core.heal, core.scrub) ---------------------------------------------------
HEAL_KEYS_MAX = 10_000  # copies noted one by one, a megabyte; past it only their partition is
HEAL_KEYS_TOLD = 16  # of them in a status: for people
HEAL_AT_ONCE = 16  # keys: a page of the engine is healed in two rounds, clients feel nothing
HEAL_LOOK = 256  # of those that wait, at one tick
HEAL_READ_S = 5.0  # until the others have answered: background work, a slow disk is no reason
HEAL_REST_S = 1.0  # after a first failure
SCRUB_RECORDS = 256  # of one turn: some milliseconds on either engine
SCRUB_TURN_S = 0.01  # between two turns of one partition: clients come in between
SCRUB_INTERVAL_S_DEFAULT = 7 * 86_400.0  # a week: what rots in one copy meets two good ones
HEAL_PAUSE_S_MAX = 30.0  # after failures; a peer that comes up ends it

# --- its HTTP endpoint ---------------------------------------------------------------------------
HTTP_CONNECTIONS_MAX = 32  # a few scrapers and probes; over it the one that idles longest must go
HTTP_HEAD_BYTES_MAX = 8 * KIB  # what others allow, and 16 times what Prometheus sends
HTTP_TARGET_BYTES_MAX = 1 * KIB  # our longest is /metrics; the rest is a stranger's query
HTTP_IDLE_S_MAX = 30.0  # for a whole request head: scrapers come every 15 s and keep the connection
HTTP_SEND_S_MAX = 5.0  # an answer is 20 KiB: a reader that takes longer does not read
HTTP_LINGER_BYTES_MAX = 256 * KIB  # read after a refusal, so that the refusal itself arrives
HTTP_LINGER_S_MAX = 1.0

# --- client --------------------------------------------------------------------------------------
CONNECT_S_MAX = 1.0  # a dead endpoint must not cost more than this
CLIENT_ATTEMPTS_MAX = 4  # of one request over all members; more would hide an outage
POOL_CONNECTIONS_MAX = 64  # idle connections kept per agent
# Bulk requests in flight: below 512 an agent finds too few frames in a recv; past 2,048 its CPU per
# record no longer falls, and every record waits longer (docs/benchmarks.md).
BULK_IN_FLIGHT_DEFAULT = 2_048
BULK_IN_FLIGHT_MAX = 8_192  # half of what an agent takes from everybody
BULK_BYTES_MAX = 16 * MIB  # of all these requests and replies: the memory of a bulk client
# On their way to and from one agent. Eight replies of the largest record stay within its outbox.
LANE_BYTES_MAX = 8 * MIB
# Requests under way of one trio client to one agent, as in bulk work: more make nothing faster. The
# rest waits in line.
LANE_REQUESTS_MAX = 1_024
REPLY_BYTES_ASSUMED = 64 * KIB  # of a get, until replies have shown what they are
RECONNECT_S_MIN = 0.1  # after a lost connection; doubled at each failure, so that an agent that
RECONNECT_S_MAX = 2.0  # is down costs a few packets, and one that is back is used soon
RETRY_PAUSE_S = 0.1  # before the next try of what an agent could not do: four tries, not one burst
