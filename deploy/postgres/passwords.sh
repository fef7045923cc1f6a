#!/bin/sh
# Gives the roles of roles.sql their passwords, from the files that Compose mounts. PostgreSQL's image runs it once, when
# it makes the database. They come by stdin: argv is for everyone to read.
set -eu

migrate=$(cat /run/secrets/postgres_migrate_password)
runtime=$(cat /run/secrets/postgres_runtime_password)
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<END
ALTER ROLE headway_migrate PASSWORD '$migrate';
ALTER ROLE headway_runtime PASSWORD '$runtime';
END
