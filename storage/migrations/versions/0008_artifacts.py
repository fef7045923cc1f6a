"""Which files a version consists of, and which of them each worker has; which releases the schema serves.

Code of 0007 goes on with it as it was: it does not look at what is new, and what it writes leaves that out.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

_TABLES = """
CREATE TABLE holdings (
    worker_id {text} NOT NULL,
    model {text} NOT NULL,
    version {text} NOT NULL,
    digest {text} NOT NULL,       -- `headway.digests.digest_of` the folder it sees, empty where that is broken
    PRIMARY KEY (worker_id, model, version)
) {strict};
CREATE TABLE compatibility (
    oldest {text} NOT NULL        -- the head of the oldest code that this schema serves
) {strict};
INSERT INTO compatibility (oldest) VALUES ('0007');
ALTER TABLE versions ADD COLUMN digest {text}
"""


def upgrade() -> None:
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    types = {"text": "TEXT", "strict": "STRICT"} if sqlite else {"text": "text", "strict": ""}
    for statement in _TABLES.format(**types).split(";"):
        connection.exec_driver_sql(statement)
