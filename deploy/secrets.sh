#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, once; what is there already is kept.
#
#   deploy/secrets.sh [FOLDER]        FOLDER is ./secrets unless said otherwise
set -eu

folder=${1:-secrets}
mkdir -p "$folder"
# The folder keeps others on this machine out. The files inside must be readable by all: Compose mounts them with
# their owner and mode, and every container runs as a user of its own.
chmod 700 "$folder"

random() {
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# NAME CONTENT
keep() {
  [ -s "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"
  chmod 444 "$folder/$1"
}

keep postgres_password "$(random)"
keep postgres_migrate_password "$(random)"
keep postgres_runtime_password "$(random)"
keep redis_password "$(random)"
keep migrate_database_url "postgresql://headway_migrate:$(cat "$folder/postgres_migrate_password")@postgres:5432/headway"
keep database_url "postgresql://headway_runtime:$(cat "$folder/postgres_runtime_password")@postgres:5432/headway"
keep redis_url "redis://headway:$(cat "$folder/redis_password")@valkey:6379/0"
keep bootstrap_key "$(random)"
keep flower_basic_auth "operator:$(random)"
keep grafana_password "$(random)"
