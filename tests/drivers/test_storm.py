"""psycopg clients that look for everything their session has after every statement, while the capacity changes.

Lasts SCALEPOINT_STORM_SECONDS (a minute). No client may see an error; what was acknowledged must be there.
"""

import os
import time

from conftest import in_threads

SECONDS = float(os.environ.get("SCALEPOINT_STORM_SECONDS", "60"))
KEEPERS = 8
#: Seconds between two rounds of a client, which leave room for other tests on a small machine; SCALEPOINT_STORM_FULL: none.
BREATH = 0 if "SCALEPOINT_STORM_FULL" in os.environ else 0.02
CAPACITIES = (4, 2, 8, 16, 2, 2, 16, 4)


class Keeper:
    """One client; every other one over TLS."""

    def __init__(self, server, number):
        self.number = number
        security = {} if number % 2 == 0 else {"sslmode": "disable", "sslrootcert": None}
        self.connection = server.connect(**security)
        self.pid = self.connection.info.backend_pid
        self.channel = f"channel_{number}"
        self.memory = 4096
        self.round = 0
        self.notes = []
        self.connection.add_notify_handler(lambda note: self.notes.append((note.pid, note.channel, note.payload)))
        self.connection.execute(f"LISTEN {self.channel}")
        self.connection.execute(f"SET my.number = '{number}'")
        self.connection.execute(f"SET work_mem = {self.memory}")
        self.connection.execute("SELECT pg_advisory_lock(%s)", [number])
        self.connection.execute(f"PREPARE own (int) AS SELECT $1 + {number}")

    def work(self, end):
        while time.monotonic() < end:
            self.round += 1
            row = "INSERT INTO kept VALUES (%s, %s)", [self.number, self.round]
            if self.round % 2:
                self.run(*row)
            else:
                with self.connection.transaction():
                    self.run("SELECT 1")
                    self.run(*row)
            self.memory = 4096 + self.round % 100
            self.run(f"SET work_mem = {self.memory}")
            self.run(f"NOTIFY {self.channel}, '{self.round}'")
            self.is_notified()
            time.sleep(BREATH)

    def run(self, statement, parameters=None):
        self.connection.execute(statement, parameters)
        self.is_whole()

    def is_whole(self):
        """Everything that the session had is there, and its neighbour has its lock."""
        found = self.connection.execute(
            "SELECT current_setting('my.number')::int, pg_size_bytes(current_setting('work_mem')) / 1024,"
            " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = %s"
            "  AND pid = pg_backend_pid()),"
            " (SELECT array_agg(channel) FROM pg_listening_channels() AS channel), pg_try_advisory_lock(%s)",
            [self.number, (self.number + 1) % KEEPERS],
            prepare=True,
        ).fetchone()
        assert found == (self.number, self.memory, 1, [self.channel], False)
        assert self.connection.execute("EXECUTE own (100)").fetchone() == (100 + self.number,)
        assert self.connection.info.backend_pid == self.pid

    def is_notified(self):
        """The notification came once, and from the process that the client takes itself for."""
        wanted = (self.pid, self.channel, str(self.round))
        deadline = time.monotonic() + 60
        while wanted not in self.notes:
            assert time.monotonic() < deadline, f"no notification {wanted}: {self.notes}"
            for note in self.connection.notifies(timeout=1, stop_after=1):
                self.notes.append((note.pid, note.channel, note.payload))
        assert self.notes == [wanted]
        self.notes.clear()


def change_capacity(server, end, reports):
    for change in range(1_000_000):
        begun = time.monotonic()
        if begun >= end:
            return
        reports.append(server.scale(CAPACITIES[change % len(CAPACITIES)]))
        time.sleep(max(0, begun + 1 - time.monotonic()))


def test_sessions_keep_what_they_have(serve):
    server = serve("15", memory="1GiB")
    with server.connect() as connection:
        connection.execute("CREATE TABLE kept (keeper int, round int, PRIMARY KEY (keeper, round))")
    keepers = [Keeper(server, number) for number in range(KEEPERS)]
    for keeper in keepers:
        keeper.is_whole()
    end = time.monotonic() + SECONDS
    reports = []
    in_threads([
        lambda: change_capacity(server, end, reports),
        *(lambda keeper=keeper: keeper.work(end) for keeper in keepers),
    ])
    assert len(reports) >= 2
    assert all(report["outcome"] == "scaled" for report in reports)
    with server.connect() as connection:
        rows = connection.execute("SELECT keeper, count(*), max(round) FROM kept GROUP BY 1 ORDER BY 1").fetchall()
    assert rows == [(keeper.number, keeper.round, keeper.round) for keeper in keepers]
    for keeper in keepers:
        keeper.connection.close()
    stalls = sorted(report["stall_ms"] for report in reports)
    rounds = sum(keeper.round for keeper in keepers)
    print(f"{len(reports)} changes, stall {stalls[len(stalls) // 2]} ms in the middle, {stalls[-1]} at most; {rounds} rounds")
