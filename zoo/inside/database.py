"""Writes transactions to an SQLite database (in WAL mode with full synchronisation), and reads all of it back."""
import sqlite3

import exhibit

connection = sqlite3.connect("/tmp/zoo.sqlite", isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute("CREATE TABLE numbers (id INTEGER PRIMARY KEY, text TEXT)")


def step(at):
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO numbers VALUES (?, ?)", [(at * 10 + n, f"{at * 10 + n:x}") for n in range(10)])
    connection.execute("COMMIT")
    got = connection.execute("SELECT text FROM numbers WHERE id = ?", (at * 5,)).fetchone()
    exhibit.want(got == (f"{at * 5:x}",), f"row {at * 5} holds {got}")


def finish(count):
    rows = connection.execute("SELECT id, text FROM numbers ORDER BY id").fetchall()
    exhibit.want(rows == [(n, f"{n:x}") for n in range(count * 10)], "the table holds something else")
    exhibit.want(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), "it is corrupt")


exhibit.run(step, finish=finish)
