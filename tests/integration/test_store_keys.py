"""Keys in SQL, the same on both stores, and `headway keys`, which works on them without a server."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headway.keys import PREFIX_LENGTH, new_token
from storage.engine import Database
from storage.keys import Keys


def test_of_a_key_only_its_beginning_and_its_digest_are_kept(database: Database) -> None:
    keys, token = Keys(database), new_token()
    key = keys.add(token, tenant_id="team", scopes=("predict", "read"), name="Notebook ü")
    assert keys.all() == [key]
    assert (key.tenant_id, key.scopes, key.name, key.revoked_at) == ("team", ("predict", "read"), "Notebook ü", None)
    assert key.digest == hashlib.sha256(token.encode()).hexdigest()
    assert key.prefix == token[:PREFIX_LENGTH]
    with database.read() as connection:
        row = connection.exec_driver_sql("SELECT * FROM keys").one()
    assert token[PREFIX_LENGTH:] not in str(row)


def test_a_key_that_is_there_stays_as_it_is_and_revoked_if_it_was(database: Database) -> None:
    keys, token = Keys(database), new_token()
    first = keys.add(token, tenant_id="default", scopes=("admin",), name="bootstrap")
    assert keys.add(token, tenant_id="other", scopes=("read",), name="again") == first
    assert keys.revoke(first.id)
    revoked = keys.add(token, tenant_id="default", scopes=("admin",), name="bootstrap")
    assert revoked.revoked_at is not None
    assert keys.revoke(first.id)
    assert keys.all() == [revoked]  # the time of the first revocation
    assert not keys.revoke("unknown")


def test_keys_are_listed_oldest_first(database: Database) -> None:
    keys = Keys(database)
    made = [keys.add(new_token(), tenant_id="default", scopes=("read",), name=str(n)) for n in range(5)]
    assert keys.all() == made


def headway(database_url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    return subprocess.run(
        [sys.executable, "-m", "launch", "keys", *words],
        env={**clean, "HEADWAY_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_makes_lists_and_revokes_keys_without_a_server(database_url: str, database: Database) -> None:
    made = headway(database_url, "create", "--tenant", "ci", "--scope", "predict", "--scope", "admin", "--name", "CI",
                   "--rate", "2.5", "--weight", "4")  # fmt: skip
    assert made.returncode == 0, made.stderr
    token = made.stdout.removesuffix("\n")
    (key,) = Keys(database).all()
    assert key.digest == hashlib.sha256(token.encode()).hexdigest()
    assert (key.tenant_id, key.scopes) == ("ci", ("predict", "admin"))
    assert token not in made.stderr

    listed = headway(database_url, "list").stdout
    assert len(listed.splitlines()) == 2
    for shown in (key.id, key.prefix, "ci", "4", "predict,admin", "2.5/s", "CI"):
        assert shown in listed
    assert token not in listed

    assert headway(database_url, "revoke", key.id).returncode == 0
    assert Keys(database).all()[0].revoked_at is not None
    unknown = headway(database_url, "revoke", "nothing")
    assert (unknown.returncode, "headway keys list" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    "words", [("--scope", "root"), ("--tenant", "A B"), ("--tenant", ""), ("--rate", "0"), ("--weight", "nan")]
)
def test_a_key_that_makes_no_sense_is_not_made(sqlite_url: str, words: tuple[str, ...]) -> None:
    refused = headway(sqlite_url, "create", *words)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_a_database_without_tables_is_told_to_be_migrated(tmp_path: Path) -> None:
    refused = headway(f"sqlite:///{tmp_path}/new.db", "list")
    assert (refused.returncode, "headway migrate" in refused.stderr) == (2, True)


def test_what_is_read_or_canceled_by_tenant_passes_over_anothers_rows(store: Any) -> None:
    (id_,) = store.submitted(tenant_id="mine")
    assert store.predictions.read_input(id_, "theirs") is None
    assert store.predictions.cancel_queued([id_], "theirs") == {}
    assert store.predictions.read_input(id_, "mine") is not None
    assert store.predictions.cancel_queued([id_], "mine").keys() == {id_}
