-- What an application would write itself instead of pg_tenancy's audit: its log tables and triggers.

CREATE SCHEMA a;
GRANT USAGE ON SCHEMA a TO PUBLIC;

-- One log for all organizations, an index by organization and time.
CREATE TABLE a.row_log (
    at timestamptz NOT NULL DEFAULT now(), org_id uuid NOT NULL, actor text, operation text NOT NULL, object text NOT NULL,
    old jsonb, new jsonb, xid xid8 NOT NULL DEFAULT pg_current_xact_id());
CREATE INDEX ON a.row_log (org_id, at);
CREATE TABLE a.statement_log (LIKE a.row_log INCLUDING DEFAULTS INCLUDING INDEXES);

CREATE FUNCTION a.log_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO a.row_log (org_id, actor, operation, object, old, new)
    VALUES (NEW.org_id, current_setting('app.current_user_id', true), TG_OP, TG_TABLE_NAME,
            CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END, to_jsonb(NEW));
    RETURN NULL;
END $$;

CREATE FUNCTION a.log_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO a.statement_log (org_id, actor, operation, object, new)
    SELECT n.org_id, current_setting('app.current_user_id', true), TG_OP, TG_TABLE_NAME, to_jsonb(n) FROM n;
    RETURN NULL;
END $$;
CREATE FUNCTION a.log_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO a.statement_log (org_id, actor, operation, object, old, new)
    SELECT n.org_id, current_setting('app.current_user_id', true), TG_OP, TG_TABLE_NAME, to_jsonb(o), to_jsonb(n)
    FROM o JOIN n USING (org_id, id);
    RETURN NULL;
END $$;

-- In the style of the record-version extensions: a hashed record id from the key columns found in the catalog, the whole
-- record before and after, and an index for each way to look it up. md5 stands in for their uuid v5, which is dearer.
CREATE TABLE a.record_version (
    id bigserial PRIMARY KEY, record_id uuid, old_record_id uuid, op text NOT NULL, ts timestamptz NOT NULL DEFAULT now(),
    table_oid oid NOT NULL, table_schema name NOT NULL, table_name name NOT NULL, record jsonb, old_record jsonb);
CREATE INDEX ON a.record_version (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX ON a.record_version (old_record_id) WHERE old_record_id IS NOT NULL;
CREATE INDEX ON a.record_version USING brin (ts);
CREATE INDEX ON a.record_version (table_oid);

CREATE FUNCTION a.primary_key_columns(entity oid) RETURNS text[] STABLE LANGUAGE sql AS $$
    SELECT coalesce(array_agg(pa.attname::text ORDER BY pa.attnum), '{}')
    FROM pg_index pi JOIN pg_attribute pa ON pi.indrelid = pa.attrelid AND pa.attnum = ANY (pi.indkey)
    WHERE indrelid = $1 AND indisprimary
$$;
CREATE FUNCTION a.to_record_id(entity oid, key_columns text[], record jsonb) RETURNS uuid STABLE LANGUAGE sql AS $$
    SELECT CASE WHEN record IS NULL THEN NULL
                WHEN key_columns = '{}' THEN gen_random_uuid()
                ELSE (SELECT md5((jsonb_build_array(to_jsonb($1)) || jsonb_agg($3 ->> k))::text)::uuid FROM unnest($2) AS x(k))
           END
$$;
CREATE FUNCTION a.log_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key_columns text[] = a.primary_key_columns(TG_RELID);
    new_record jsonb = to_jsonb(NEW);
    new_id uuid = a.to_record_id(TG_RELID, key_columns, new_record);
    old_record jsonb = CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END;
    old_id uuid = a.to_record_id(TG_RELID, key_columns, old_record);
BEGIN
    INSERT INTO a.record_version (record_id, old_record_id, op, table_oid, table_schema, table_name, record, old_record)
    SELECT new_id, old_id, TG_OP, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_record, old_record;
    RETURN coalesce(NEW, OLD);
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA a TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA a TO PUBLIC;
