-- Views, comments, and who may call what.

CREATE VIEW tenancy.protected_tables WITH (security_invoker = true) AS
SELECT t.tgrelid::pg_catalog.regclass AS table_name,
       coalesce(c.attname, (a.options ->> 'org_column')::pg_catalog.name) AS org_column,
       a.options ->> 'select' AS select_action,
       a.options ->> 'insert' AS insert_action,
       a.options ->> 'update' AS update_action,
       a.options ->> 'delete' AS delete_action,
       a.options -> 'columns' AS column_actions,
       (a.options ->> 'audit')::boolean AS audited,
       (SELECT i.inhparent::pg_catalog.regclass FROM pg_catalog.pg_inherits AS i
        WHERE i.inhrelid = t.tgrelid ORDER BY i.inhseqno LIMIT 1) AS part_of,
       a.options -> 'audit_exclude' AS audit_excluded,
       a.options -> 'audit_mask' AS audit_masked,
       a.options ->> 'environment_column' AS environment_column,
       a.options ->> 'environment_from' AS environment_from,
       a.options #>> '{resource,type}' AS resource_type,
       a.options #>> '{resource,parent}' AS resource_parent,
       a.options ->> 'project_column' AS project_column,
       a.options ->> 'cluster_column' AS cluster_column
FROM pg_catalog.pg_trigger AS t
     CROSS JOIN LATERAL
         (SELECT pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) - 1),
                                         pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS options) AS a
     LEFT JOIN LATERAL
         -- The column as it is called now: the policies follow it when it is renamed.
         (SELECT att.attname
          FROM pg_catalog.pg_policy AS p
               JOIN pg_catalog.pg_depend AS d
                 ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.tgrelid
               JOIN pg_catalog.pg_attribute AS att ON att.attrelid = t.tgrelid AND att.attnum = d.refobjsubid
          WHERE p.polrelid = t.tgrelid AND p.polname = 'tenancy_select_boundary' AND d.refobjsubid > 0
          LIMIT 1) AS c ON true
WHERE t.tgfoid IN ('tenancy.guard_row()'::pg_catalog.regprocedure, 'tenancy.guard_statement()'::pg_catalog.regprocedure)
  AND t.tgnargs = 1;
COMMENT ON VIEW tenancy.protected_tables IS
    'The protected tables, their partitions and children among them, and the action each command needs (spec 5)';
GRANT SELECT ON tenancy.protected_tables TO PUBLIC;

CREATE VIEW tenancy.exempt_tables WITH (security_invoker = true) AS
SELECT e.table_name, e.reason, e.exempted_by, e.exempted_at
FROM tenancy.exemptions AS e JOIN pg_catalog.pg_class AS c ON c.oid = e.table_name;
COMMENT ON VIEW tenancy.exempt_tables IS 'Tables that are left unprotected on purpose, and why (spec 5)';
GRANT SELECT ON tenancy.exempt_tables TO PUBLIC;

CREATE VIEW tenancy.audit_log AS
SELECT at, org_id, actor_id, actor_type, approver_id, db_role, operation, object, key, old, new,
       result, client_addr, request_id, xid, n, break_glass
FROM tenancy.read_audit();
COMMENT ON VIEW tenancy.audit_log IS 'The audit log of the current organization; reading needs org:audit (spec 6.2)';
GRANT SELECT ON tenancy.audit_log TO PUBLIC;

CREATE VIEW tenancy.leakproof_vouchers WITH (security_invoker = true) AS
SELECT coalesce(l.object, v.object) AS object,
       nullif(coalesce(l.access_method, v.access_method::text), '') AS access_method,
       nullif(coalesce(l.family, v.family::text), '') AS family,
       coalesce(l.vetted, true) AS vetted,
       v.object IS NOT NULL AS vouched,
       coalesce(l.reason, tenancy.leakproof_expression_reason()) AS reason,
       v.vouched_by, v.vouched_at
FROM tenancy.leakproof_list() AS l
     FULL JOIN tenancy.leakproof_vouched AS v
            ON v.object = l.object AND v.access_method::text = l.access_method AND v.family::text = l.family;
COMMENT ON VIEW tenancy.leakproof_vouchers IS
    'Operators with the index families that may answer them on protected tables: what can be vouched for, what is, and why (spec 14)';
GRANT SELECT ON tenancy.leakproof_vouchers TO PUBLIC;

CREATE EVENT TRIGGER tenancy_guard_drop ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION tenancy.guard_drop();

CREATE EVENT TRIGGER tenancy_after_table_ddl ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA') EXECUTE FUNCTION tenancy.after_table_ddl();
-- In replica mode too: a partition made there is as open as any.
ALTER EVENT TRIGGER tenancy_after_table_ddl ENABLE ALWAYS;

CREATE EVENT TRIGGER tenancy_before_table_ddl ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX', 'CREATE STATISTICS') EXECUTE FUNCTION tenancy.before_table_ddl();
ALTER EVENT TRIGGER tenancy_before_table_ddl ENABLE ALWAYS;

CREATE EVENT TRIGGER tenancy_after_drop ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP FOREIGN TABLE', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION tenancy.after_drop();
ALTER EVENT TRIGGER tenancy_after_drop ENABLE ALWAYS;

-- Named to fire after the one that takes new partitions in.
CREATE EVENT TRIGGER tenancy_drift_begins ON ddl_command_start
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA', 'DROP INDEX') EXECUTE FUNCTION tenancy.drift_begins();
CREATE EVENT TRIGGER tenancy_drift_ends ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA',
                 'CREATE VIEW', 'ALTER VIEW', 'CREATE MATERIALIZED VIEW', 'ALTER MATERIALIZED VIEW', 'CREATE RULE', 'ALTER RULE',
                 'CREATE POLICY', 'ALTER POLICY', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE PUBLICATION', 'ALTER PUBLICATION')
    EXECUTE FUNCTION tenancy.drift_ends();
CREATE EVENT TRIGGER tenancy_drift_dropped ON sql_drop EXECUTE FUNCTION tenancy.drift_dropped();
-- In replica mode too: whoever may set it may set break-glass, which is written down.
ALTER EVENT TRIGGER tenancy_drift_begins ENABLE ALWAYS;
ALTER EVENT TRIGGER tenancy_drift_ends ENABLE ALWAYS;
ALTER EVENT TRIGGER tenancy_drift_dropped ENABLE ALWAYS;

COMMENT ON SCHEMA tenancy IS 'pg_tenancy: the organization as the isolation boundary of this database';

COMMENT ON FUNCTION tenancy.enter(uuid, uuid, boolean, uuid, uuid) IS
    'Sets the context to an organization (and user, for a trusted application), validates it at once, and seals it if told (spec 4)';
COMMENT ON FUNCTION tenancy.seal_context() IS
    'Freezes the context until the transaction ends (spec 4)';
COMMENT ON FUNCTION tenancy.leave() IS
    'Unsets the context: no protected row is visible after it; a token that it takes away gives the login nothing back before the transaction ends (spec 4)';
COMMENT ON FUNCTION tenancy.whoami() IS
    'Who the session acts as, for which organization, with which role, or the reason there is none (spec 4)';
COMMENT ON FUNCTION tenancy.my_orgs() IS
    'The organizations the session''s user may enter (spec 3.10)';
COMMENT ON FUNCTION tenancy.current_user_id() IS
    'The user the session acts as (spec 4)';
COMMENT ON FUNCTION tenancy.sees_user(uuid) IS
    'Whether the context may see a user: oneself, and with team:read the organization''s members (spec 2)';
COMMENT ON FUNCTION tenancy.current_role_name() IS
    'The role in the organization in effect (spec 4)';
COMMENT ON FUNCTION tenancy.has_permission(text, text) IS
    'Whether a role holds an action: true for allow, false for limited and deny (spec 2)';
COMMENT ON FUNCTION tenancy.has_permission(text) IS
    'Whether the current context may do an action (spec 2)';
COMMENT ON FUNCTION tenancy.has_permission_in(text, text) IS
    'Whether the current context may do an action on what belongs to an environment (spec 2)';
COMMENT ON FUNCTION tenancy.has_permission(uuid, uuid, text, text) IS
    'Whether a user may do an action in an organization; for oneself, holders of team:read and the DBA (spec 2)';
COMMENT ON FUNCTION tenancy.permission_level(text, text, text) IS
    'What a role has on an action, in an environment or in all of them: allow, limited or deny (spec 2)';
COMMENT ON FUNCTION tenancy.create_role(uuid, text, text, text, text, boolean) IS
    'Makes a role of the organization''s own, from scratch, another role or a template; needs team:role (spec 2)';
COMMENT ON FUNCTION tenancy.grant_permission(uuid, text, text, text, text) IS
    'Gives one of the organization''s own roles a level on an action, in one environment or all; needs team:role and the action (spec 2)';
COMMENT ON FUNCTION tenancy.revoke_permission(uuid, text, text, text) IS
    'Takes a grant from one of the organization''s own roles; needs team:role (spec 2)';
COMMENT ON FUNCTION tenancy.activate_role(uuid, text) IS
    'Lets one of the organization''s own roles give its members what it has; needs team:role and all of that (spec 2)';
COMMENT ON FUNCTION tenancy.deactivate_role(uuid, text) IS
    'Makes one of the organization''s own roles give its members nothing; needs team:role (spec 2)';
COMMENT ON FUNCTION tenancy.drop_role(uuid, text) IS
    'Ends one of the organization''s own roles, which nobody has any more; needs team:role (spec 2)';
COMMENT ON FUNCTION tenancy.access_matrix(uuid) IS
    'What every member and service account of an organization may, in effect and now, in projects too; needs team:read (spec 2)';
COMMENT ON FUNCTION tenancy.access_matrix_csv(uuid) IS
    'access_matrix() as CSV; needs team:read (spec 2)';
COMMENT ON FUNCTION tenancy.who_can(text, regclass, text, uuid) IS
    'Which members of the current organization may do an action, or do it on one resource; needs team:read (spec 2)';
COMMENT ON FUNCTION tenancy.what_can(uuid, uuid, uuid) IS
    'What a user may in an organization; for oneself, holders of team:read and the DBA (spec 2)';
COMMENT ON FUNCTION tenancy.define_action(text, text, text, text, text, text) IS
    'Adds an application''s own action with the levels that the system roles have on it; for the DBA (spec 2)';
COMMENT ON FUNCTION tenancy.drop_action(text) IS
    'Takes an application''s own action away; for the DBA (spec 2)';
COMMENT ON FUNCTION tenancy.keep_published() IS
    'Trigger: the system''s roles, actions and levels never change (spec 2)';
COMMENT ON FUNCTION tenancy.create_user(text, text, text, text) IS
    'Registers a person; for the DBA and trusted applications (spec 3)';
COMMENT ON FUNCTION tenancy.create_org(text, text, uuid, text) IS
    'Makes an organization with its one owner and its audit log (spec 3.1)';
COMMENT ON FUNCTION tenancy.set_external_key(uuid, text) IS
    'Gives an organization the application''s own key, by which columns of other types than uuid name it; for the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.add_member(uuid, uuid, text, timestamptz) IS
    'Adds a user to an organization; needs team:invite (spec 3)';
COMMENT ON FUNCTION tenancy.set_member_role(uuid, uuid, text) IS
    'Gives a member another role; needs team:role (spec 3)';
COMMENT ON FUNCTION tenancy.set_member_expiry(uuid, uuid, timestamptz) IS
    'Says when a membership ends by itself; needs team:role (spec 3.7)';
COMMENT ON FUNCTION tenancy.set_member_networks(uuid, uuid, cidr[]) IS
    'Says from which networks a membership may be used; needs team:role (spec 3.7)';
COMMENT ON FUNCTION tenancy.remove_member(uuid, uuid) IS
    'Ends a membership; needs team:remove, or one''s own (spec 3.6)';
COMMENT ON FUNCTION tenancy.set_scope(uuid, uuid, regclass, text, text) IS
    'Limits a membership to listed resources, this one among them: full, read_only or none; needs team:role (spec 3.8)';
COMMENT ON FUNCTION tenancy.set_scopes(uuid, uuid, regclass, text[], text) IS
    'set_scope() for many resources at once (spec 3.8)';
COMMENT ON FUNCTION tenancy.remove_scope(uuid, uuid, regclass, text) IS
    'Takes a rule of a membership''s scope away; without any it sees nothing; needs team:role (spec 3.8)';
COMMENT ON FUNCTION tenancy.unscope_member(uuid, uuid) IS
    'Gives a membership the whole organization again; needs team:role (spec 3.8)';
COMMENT ON FUNCTION tenancy.list_scopes(uuid, uuid) IS
    'The rules of memberships that are limited to resources; one''s own, and all with team:read (spec 3.8)';
COMMENT ON FUNCTION tenancy.scope_of(regclass, text) IS
    'How far the context''s membership reaches a resource: full, read_only or none (spec 3.8)';
COMMENT ON FUNCTION tenancy.transfer_ownership(uuid, uuid) IS
    'Hands an organization to another active member; for its owner (spec 3.3)';
COMMENT ON FUNCTION tenancy.bind_login(text, uuid) IS
    'Binds a database login to one user; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.unbind_login(text) IS
    'Undoes bind_login(); for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.trust_application(text, text, text) IS
    'Trusts a login to name the user it acts for; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.distrust_application(text) IS
    'Undoes trust_application(); for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.authenticate(text, text) IS
    'Proves by a signed token or an API key whom the session acts for, in this transaction or session (spec 4)';
COMMENT ON FUNCTION tenancy.require_token(text, text) IS
    'Leaves a login without authority unless it brings a signed token; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.waive_token(text) IS
    'Undoes require_token(); for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.add_signing_key(text, text, bytea, text, text, text) IS
    'Adds a key that verifies tokens; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.retire_signing_key(text) IS
    'Ends a key and every session that a token of it speaks for; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.list_signing_keys() IS
    'The keys that verify tokens, without secrets; for the DBA (spec 4)';
COMMENT ON FUNCTION tenancy.grant_administration(text) IS
    'Lets a role''s members run the DBA''s functions; for superusers (spec 4)';
COMMENT ON FUNCTION tenancy.revoke_administration(text) IS
    'Undoes grant_administration(); for superusers (spec 4)';
COMMENT ON FUNCTION tenancy.protect(regclass, text, jsonb, boolean, text, text, text, text, text, text) IS
    'Makes every row of a table belong to one organization and keeps it so; for the table''s owner and the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.create_environment(uuid, text, text) IS
    'Adds an environment tag of an organization''s own; needs org:update (spec 7)';
COMMENT ON FUNCTION tenancy.drop_environment(uuid, text) IS
    'Takes an environment tag of an organization''s own away; needs org:update (spec 7)';
COMMENT ON FUNCTION tenancy.set_production_protection(uuid, boolean) IS
    'Turns the protection of an organization''s production rows on or off; for its owner (spec 7)';
COMMENT ON FUNCTION tenancy.submit_proposal(uuid) IS
    'Hands a draft in for approval; for who made it (spec 8)';
COMMENT ON FUNCTION tenancy.approve_proposal(uuid, text, text) IS
    'Approves a proposal of an AI actor, for the row as it was looked at; needs ai:approve, as a person (spec 8)';
COMMENT ON FUNCTION tenancy.show_proposal(uuid) IS
    'What a proposal would change of its row, column by column, as far as the caller sees the row (spec 8)';
COMMENT ON FUNCTION tenancy.reject_proposal(uuid, text) IS
    'Rejects a proposal of an AI actor; needs ai:approve, as a person (spec 8)';
COMMENT ON FUNCTION tenancy.execute_proposal(uuid) IS
    'Makes the change of an approved proposal, once; for the AI actor of the user who made it (spec 8)';
COMMENT ON FUNCTION tenancy.sees_proposal(oid, uuid, uuid[]) IS
    'Whether the context may see the proposals of its organization (spec 8)';
COMMENT ON FUNCTION tenancy.confirm_production_delete(regclass, text, text) IS
    'Confirms that one production row is to be deleted in this transaction; for the owner in person (spec 7)';
COMMENT ON FUNCTION tenancy.unprotect(regclass) IS
    'Takes the protection of a table away, rows stay; for the table''s owner and the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.set_audit(regclass, boolean, text[], text[]) IS
    'Says whether a protected table is audited, and which columns the log leaves out or hides; for its owner and the DBA (spec 6.5)';
COMMENT ON FUNCTION tenancy.erase_audit(text, jsonb, text) IS
    'Erases what the log holds of one row and keeps every proof; needs org:delete (spec 6.5)';
COMMENT ON FUNCTION tenancy.set_audit_retention(integer) IS
    'Says for how many days the current organization''s log is kept; needs org:delete (spec 6.5)';
COMMENT ON FUNCTION tenancy.set_legal_hold(boolean, text) IS
    'Keeps the current organization''s log from being purged or erased; needs org:delete (spec 6.5)';
COMMENT ON FUNCTION tenancy.purge_audit() IS
    'Removes what is older than the organization keeps its log; needs org:delete, or to be the DBA (spec 6.5)';
COMMENT ON FUNCTION tenancy.protect_schema(text, text, jsonb, boolean, boolean, text, text, text) IS
    'Protects every table of a schema that has the organization column, all or none, and says which it left and why (spec 5)';
COMMENT ON PROCEDURE tenancy.add_org_column(regclass, text, text[], integer) IS
    'Adds an organization column to a table that refers to one that has it, fills and keeps it; for the owner and the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.exempt(regclass, text) IS
    'Says that a table is not to be protected, and why; for the table''s owner and the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.unexempt(regclass) IS
    'Takes exempt() back; for the table''s owner and the DBA (spec 5)';
COMMENT ON FUNCTION tenancy.uninstall() IS
    'Unprotects every table so that DROP EXTENSION can follow; for superusers (spec 13)';
COMMENT ON FUNCTION tenancy.vouch_leakproof(text) IS
    'Lets an operator, or a function in an index''s expression, use its index on protected tables; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.vouch_leakproof(regoperator) IS
    'Lets an operator use its index on protected tables; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.vouch_leakproof(text, text) IS
    'Lets every vetted operator of an index family use its index on protected tables; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.withdraw_vouch(text) IS
    'Undoes vouch_leakproof() for an operator or function; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.withdraw_vouch(regoperator) IS
    'Undoes vouch_leakproof() for an operator; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.withdraw_vouch(text, text) IS
    'Undoes vouch_leakproof() for an index family; for superusers (spec 14)';
COMMENT ON FUNCTION tenancy.leakproof_list() IS
    'The operators that may be vouched for and some that may not, each with the reason (spec 14)';
COMMENT ON FUNCTION tenancy.leakproof_expression_reason() IS
    'Why a function may stand in the expression of an index (spec 14)';
COMMENT ON FUNCTION tenancy.watch_schema(text, text) IS
    'Expects new tables with an organization column in a schema to be protected; for its owner and the DBA (spec 5.7)';
COMMENT ON FUNCTION tenancy.unwatch_schema(text) IS
    'Undoes watch_schema(); for the schema''s owner and the DBA (spec 5.7)';
COMMENT ON FUNCTION tenancy.begin_migration(text) IS
    'Opens the rows of all organizations to the statements of a migration, until the transaction ends; for administrators (spec 5.7)';
COMMENT ON FUNCTION tenancy.sees_bypasses() IS
    'Whether the context may read bypass_ledger: with org:audit, or as an administrator (spec 5.7)';
COMMENT ON FUNCTION tenancy.create_project(uuid, text, text, text) IS
    'Makes a project in an organization; needs org:update (spec 9)';
COMMENT ON FUNCTION tenancy.rename_project(uuid, text) IS
    'Gives a project another name; needs org:update (spec 9)';
COMMENT ON FUNCTION tenancy.set_project_access(uuid, text) IS
    'Opens a project to the organization''s members or restricts it to its own; needs org:update or project_admin (spec 9)';
COMMENT ON FUNCTION tenancy.set_project_environment(uuid, text) IS
    'Tags a project with an environment; needs org:update (spec 7, 9)';
COMMENT ON FUNCTION tenancy.delete_project(uuid) IS
    'Deletes an empty project; needs org:update or project_admin (spec 9)';
COMMENT ON FUNCTION tenancy.create_cluster(uuid, text, text) IS
    'Makes a cluster in a project; needs project_admin or org:update (spec 9)';
COMMENT ON FUNCTION tenancy.rename_cluster(uuid, text) IS
    'Gives a cluster another name; needs project_admin or org:update (spec 9)';
COMMENT ON FUNCTION tenancy.delete_cluster(uuid) IS
    'Deletes an empty cluster; needs project_admin or org:update (spec 9)';
COMMENT ON FUNCTION tenancy.add_project_member(uuid, uuid, text) IS
    'Gives a member of the organization a role in a project; nobody gives what he does not hold (spec 9)';
COMMENT ON FUNCTION tenancy.set_project_role(uuid, uuid, text) IS
    'Gives a member of a project another role there (spec 9)';
COMMENT ON FUNCTION tenancy.remove_project_member(uuid, uuid) IS
    'Ends somebody''s role in a project, or one''s own (spec 9)';
COMMENT ON FUNCTION tenancy.set_strict_project_access(uuid, boolean) IS
    'Says whether owner and admins have no implicit access to restricted projects; needs team:role (spec 9)';
COMMENT ON FUNCTION tenancy.sees_project(uuid) IS
    'Whether the context sees a project: the policy of projects and clusters (spec 9)';
COMMENT ON FUNCTION tenancy.sees_project_member(uuid, uuid) IS
    'Whether the context sees who has a role in a project: the policy of project_members (spec 9)';
COMMENT ON FUNCTION tenancy.check_project(oid, uuid, uuid, text) IS
    'Whether a row may be written in its project: true, or the refusal; in the policies of tables with a project column (spec 9)';
COMMENT ON FUNCTION tenancy.check_project_row(oid, uuid, uuid, text) IS
    'Whether a row that is there may be written in its project: true, or the refusal of one that may be read; in plans (spec 5.4, 9)';
COMMENT ON FUNCTION tenancy.has_project_permission(uuid, text) IS
    'Whether the context may do an action in a project (spec 9)';
COMMENT ON FUNCTION tenancy.recommend_isolation(boolean, boolean) IS
    'Which boundary to choose, organization, project or cluster, and why (spec 9)';
COMMENT ON FUNCTION tenancy.check_place() IS
    'Trigger: a project stays in its organization, a cluster in its project, and goes only when it is empty (spec 9)';
COMMENT ON FUNCTION tenancy.authority_changed() IS
    'Trigger: tells every session that memberships, roles or bindings changed (spec 4)';
COMMENT ON FUNCTION tenancy.check_membership() IS
    'Trigger: exactly one owner per organization (spec 3.2)';
COMMENT ON FUNCTION tenancy.check_membership_scope() IS
    'Trigger: an owner''s membership has no scope, and a rule limits a membership (spec 3.2, 3.8)';
COMMENT ON FUNCTION tenancy.check_org() IS
    'Trigger: an organization''s id and slug never change, nor its external key while tables go by it (spec 3.1, 5)';
COMMENT ON FUNCTION tenancy.mirror_owner() IS
    'Trigger: membership rows follow orgs.owner_id (spec 3.2)';

-- Every function above checks its caller, so EXECUTE stays with PUBLIC; the triggers are for our own tables only.
REVOKE ALL ON FUNCTION tenancy.authority_changed(), tenancy.check_membership(), tenancy.check_membership_scope(), tenancy.check_org(),
                       tenancy.mirror_owner(), tenancy.keep_published(), tenancy.check_place() FROM PUBLIC;
