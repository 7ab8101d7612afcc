-- Functions on the C ABI: those that stand in policies and defaults, the triggers of protected tables, and the audit
-- reader. Everything else is declared beside its Rust code.

CREATE FUNCTION tenancy.org_if(action text) RETURNS uuid
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_org_if';
COMMENT ON FUNCTION tenancy.org_if(text) IS
    'The current organization if the context may do the action there, else NULL: the predicate of every policy (spec 5.1)';

CREATE FUNCTION tenancy.check_row(table_id oid, org uuid, action text) RETURNS boolean
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_row';
COMMENT ON FUNCTION tenancy.check_row(oid, uuid, text) IS
    'True for a row of the current organization that the context may write there, else an error: the check of every policy (spec 5.4)';

-- The boundary of a table of resources: `is_unscoped() OR in_scope(..)`. What share of an organization's rows it shows, the
-- planner is told by scope_support(): its own guess is a third.
CREATE FUNCTION tenancy.scope_support(internal) RETURNS internal
    STABLE STRICT PARALLEL SAFE
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_scope_support';
COMMENT ON FUNCTION tenancy.scope_support(internal) IS
    'Tells the planner how many rows a membership''s scope shows (spec 14)';
REVOKE ALL ON FUNCTION tenancy.scope_support(internal) FROM PUBLIC;

CREATE FUNCTION tenancy.is_unscoped() RETURNS boolean
    STABLE PARALLEL SAFE COST 1 SUPPORT tenancy.scope_support
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_is_unscoped';
COMMENT ON FUNCTION tenancy.is_unscoped() IS
    'Whether the context''s membership reaches the whole organization and is not limited to resources (spec 3.8)';

CREATE FUNCTION tenancy.in_scope(table_id oid, key "any", parent "any") RETURNS boolean
    STABLE PARALLEL SAFE COST 1 SUPPORT tenancy.scope_support
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_in_scope';
COMMENT ON FUNCTION tenancy.in_scope(oid, "any", "any") IS
    'Whether the membership''s scope shows a row of a table of resources: in the boundary of such tables (spec 3.8)';

CREATE FUNCTION tenancy.in_full_scope(table_id oid, key "any", parent "any") RETURNS boolean
    STABLE PARALLEL SAFE COST 1 SUPPORT tenancy.scope_support
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_in_full_scope';
COMMENT ON FUNCTION tenancy.in_full_scope(oid, "any", "any") IS
    'Whether the membership''s scope lets a row be written: in place of in_scope() where a SELECT locks rows (spec 3.8)';

CREATE FUNCTION tenancy.check_scope(table_id oid, key "any", parent "any") RETURNS boolean
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_scope';
COMMENT ON FUNCTION tenancy.check_scope(oid, "any", "any") IS
    'True for a row that the membership''s scope lets be written, else an error: the check of that boundary (spec 3.8)';

CREATE FUNCTION tenancy.current_org() RETURNS uuid
    STABLE LEAKPROOF PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_org';
COMMENT ON FUNCTION tenancy.current_org() IS
    'The organization in effect: the claimed one if the principal belongs to it now, else NULL (spec 4)';

-- The same for organization columns that hold external keys, in each type: a cast in the predicate would cost the index.
CREATE FUNCTION tenancy.org_key_if(action text) RETURNS text
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_org_key_if';
COMMENT ON FUNCTION tenancy.org_key_if(text) IS
    'The current organization''s external key if the context may do the action there, else NULL: the predicate of policies on a column of type text or varchar (spec 5)';

CREATE FUNCTION tenancy.check_row(table_id oid, org text, action text) RETURNS boolean
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_row_text';
COMMENT ON FUNCTION tenancy.check_row(oid, text, text) IS
    'True for a row of the current organization, by a column of type text or varchar, else an error: the check of its policies (spec 5)';

CREATE FUNCTION tenancy.current_org_key() RETURNS text
    STABLE LEAKPROOF PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_org_key';
COMMENT ON FUNCTION tenancy.current_org_key() IS
    'The external key of the organization in effect; NULL where it has none (spec 5)';

CREATE FUNCTION tenancy.org_key_integer_if(action text) RETURNS integer
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_org_key_integer_if';
COMMENT ON FUNCTION tenancy.org_key_integer_if(text) IS
    'The current organization''s external key if the context may do the action there, else NULL: the predicate of policies on a column of type integer (spec 5)';

CREATE FUNCTION tenancy.check_row(table_id oid, org integer, action text) RETURNS boolean
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_row_integer';
COMMENT ON FUNCTION tenancy.check_row(oid, integer, text) IS
    'True for a row of the current organization, by a column of type integer, else an error: the check of its policies (spec 5)';

CREATE FUNCTION tenancy.current_org_key_integer() RETURNS integer
    STABLE LEAKPROOF PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_org_key_integer';
COMMENT ON FUNCTION tenancy.current_org_key_integer() IS
    'The external key of the organization in effect, as a number; NULL where it has none such (spec 5)';

CREATE FUNCTION tenancy.org_key_bigint_if(action text) RETURNS bigint
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_org_key_bigint_if';
COMMENT ON FUNCTION tenancy.org_key_bigint_if(text) IS
    'The current organization''s external key if the context may do the action there, else NULL: the predicate of policies on a column of type bigint (spec 5)';

CREATE FUNCTION tenancy.check_row(table_id oid, org bigint, action text) RETURNS boolean
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_row_bigint';
COMMENT ON FUNCTION tenancy.check_row(oid, bigint, text) IS
    'True for a row of the current organization, by a column of type bigint, else an error: the check of its policies (spec 5)';

CREATE FUNCTION tenancy.current_org_key_bigint() RETURNS bigint
    STABLE LEAKPROOF PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_org_key_bigint';
COMMENT ON FUNCTION tenancy.current_org_key_bigint() IS
    'The external key of the organization in effect, as a number; NULL where it has none such (spec 5)';

CREATE FUNCTION tenancy.with_room(query tsquery) RETURNS tsquery
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_with_room';
COMMENT ON FUNCTION tenancy.with_room(tsquery) IS
    'Answers a full-text query, or raises where the stack has no room for it; stands in plans of protected tables (spec 14)';

CREATE FUNCTION tenancy.guard_row() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_row';
COMMENT ON FUNCTION tenancy.guard_row() IS
    'Row trigger of protected tables: organization, column actions, foreign keys, audit (spec 5, 6)';

CREATE FUNCTION tenancy.guard_statement() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_statement';
COMMENT ON FUNCTION tenancy.guard_statement() IS
    'Statement trigger of protected tables: refuses a write that the role may not do (spec 5.4)';

CREATE FUNCTION tenancy.guard_truncate() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_truncate';
COMMENT ON FUNCTION tenancy.guard_truncate() IS
    'Trigger of protected tables: refuses TRUNCATE (spec 5.6)';

CREATE FUNCTION tenancy.guard_audit() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_audit';
COMMENT ON FUNCTION tenancy.guard_audit() IS
    'Trigger of audit tables: nobody updates or deletes (spec 6.2)';

CREATE FUNCTION tenancy.guard_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_drop';
COMMENT ON FUNCTION tenancy.guard_drop() IS
    'Event trigger: refuses DROP EXTENSION pg_tenancy while tables are protected (spec 13)';

CREATE FUNCTION tenancy.drift_begins() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_drift_begins';
COMMENT ON FUNCTION tenancy.drift_begins() IS
    'Event trigger: notes what CREATE TABLE AS reads (spec 5.7)';

CREATE FUNCTION tenancy.drift_ends() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_drift_ends';
COMMENT ON FUNCTION tenancy.drift_ends() IS
    'Event trigger: refuses, mends or warns of what weakens a protected table or reads it past its policies (spec 5.7)';

CREATE FUNCTION tenancy.drift_dropped() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_drift_dropped';
COMMENT ON FUNCTION tenancy.drift_dropped() IS
    'Event trigger: refuses that a protected table loses a trigger or policy of ours (spec 5.7)';

CREATE FUNCTION tenancy.after_table_ddl() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_after_table_ddl';
COMMENT ON FUNCTION tenancy.after_table_ddl() IS
    'Event trigger: new partitions and children are protected like their parent; new foreign keys are checked (spec 5)';

CREATE FUNCTION tenancy.before_table_ddl() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_before_table_ddl';
COMMENT ON FUNCTION tenancy.before_table_ddl() IS
    'Event trigger: what would show a table''s owner rows of other organizations, or lose references to them, is refused (spec 5)';

CREATE FUNCTION tenancy.after_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_after_drop';
COMMENT ON FUNCTION tenancy.after_drop() IS
    'Event trigger: the exemption of a dropped table goes with it (spec 5)';

CREATE FUNCTION tenancy.fill_org() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_fill_org';
COMMENT ON FUNCTION tenancy.fill_org() IS
    'Row trigger of tables whose organization column add_org_column() made: keeps it filled (spec 5)';

-- Triggers fire without EXECUTE; creating one by hand takes it, and only protect() creates them.
REVOKE ALL ON FUNCTION tenancy.guard_row(), tenancy.guard_statement(), tenancy.guard_truncate(),
                       tenancy.guard_audit(), tenancy.guard_drop(), tenancy.after_table_ddl(), tenancy.before_table_ddl(),
                       tenancy.after_drop(), tenancy.fill_org(), tenancy.drift_begins(), tenancy.drift_ends(),
                       tenancy.drift_dropped() FROM PUBLIC;

CREATE TYPE tenancy.audit_entry AS (
    at timestamptz, org_id uuid, actor_id uuid, actor_type text, approver_id uuid, db_role name, operation text,
    object text, key jsonb, old jsonb, new jsonb, result text, client_addr inet, request_id text, xid xid8, n integer,
    break_glass boolean);
COMMENT ON TYPE tenancy.audit_entry IS 'A line of an organization''s audit log (spec 6.1)';

CREATE FUNCTION tenancy.read_audit(
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, actor uuid DEFAULT NULL,
    object text DEFAULT NULL, operation text DEFAULT NULL, max_rows bigint DEFAULT NULL)
RETURNS SETOF tenancy.audit_entry
    VOLATILE PARALLEL UNSAFE ROWS 1000
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_read_audit';
COMMENT ON FUNCTION tenancy.read_audit(timestamptz, timestamptz, uuid, text, text, bigint) IS
    'The audit log of the current organization, oldest first, filtered; needs org:audit (spec 6.2)';
