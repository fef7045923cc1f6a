-- Two roles for Headway's database, so that what serves cannot change the schema:
--
--   headway_migrate    owns the tables; `headway migrate` alone connects as it
--   headway_runtime    reads and writes rows; everything else connects as it
--
-- Run it as a superuser, connected to Headway's database, before the first migration; again it changes nothing. Then
-- give both a password (ALTER ROLE … PASSWORD). Where tables exist already: REASSIGN OWNED BY their_owner TO
-- headway_migrate, and the GRANT at the end.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headway_migrate') THEN
        CREATE ROLE headway_migrate LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headway_runtime') THEN
        CREATE ROLE headway_runtime LOGIN;
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO headway_migrate, headway_runtime', current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO headway_migrate;
GRANT USAGE ON SCHEMA public TO headway_runtime;
ALTER DEFAULT PRIVILEGES FOR ROLE headway_migrate IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO headway_runtime;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO headway_runtime;
