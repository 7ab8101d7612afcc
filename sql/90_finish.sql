-- Views, comments, and who may call what.

CREATE VIEW tenancy.protected_tables WITH (security_invoker = true) AS
SELECT t.tgrelid::pg_catalog.regclass AS table_name,
       (a.options ->> 'org_column')::pg_catalog.name AS org_column,
       a.options ->> 'select' AS select_action,
       a.options ->> 'insert' AS insert_action,
       a.options ->> 'update' AS update_action,
       a.options ->> 'delete' AS delete_action,
       a.options -> 'columns' AS column_actions,
       (a.options ->> 'audit')::boolean AS audited
FROM pg_catalog.pg_trigger AS t,
     LATERAL (SELECT pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) - 1),
                                             pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS options) AS a
WHERE t.tgfoid = 'tenancy.guard_row()'::pg_catalog.regprocedure AND t.tgnargs = 1;
COMMENT ON VIEW tenancy.protected_tables IS 'The tables handed to protect(), and the action each command needs (spec 5)';
GRANT SELECT ON tenancy.protected_tables TO PUBLIC;

CREATE VIEW tenancy.audit_log AS
SELECT at, org_id, actor_id, actor_type, approver_id, db_role, operation, object, key, old, new,
       result, client_addr, request_id, xid, n, break_glass
FROM tenancy.read_audit();
COMMENT ON VIEW tenancy.audit_log IS 'The audit log of the current organization; reading needs org:audit (spec 6.2)';
GRANT SELECT ON tenancy.audit_log TO PUBLIC;

CREATE EVENT TRIGGER tenancy_guard_drop ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION') EXECUTE FUNCTION tenancy.guard_drop();

COMMENT ON SCHEMA tenancy IS 'pg_tenancy: the organization as the isolation boundary of this database';
