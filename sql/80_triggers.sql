-- Row triggers, and ALWAYS: a logical subscriber applies rows without firing statement triggers, and a replica
-- session (session_replication_role) must neither miss a revocation nor slip a second owner in.

-- The bell: the tables on which authority rests, and those that every session knows by heart (what an environment's tag
-- means, which tables have quotas). A change of any of them makes all sessions look anew.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['users', 'orgs', 'memberships', 'membership_scopes', 'roles', 'actions', 'role_permissions',
                             'custom_roles', 'custom_role_permissions',
                             'login_bindings', 'signing_keys', 'administrators', 'leakproof_vouched',
                             'org_environments', 'service_accounts', 'api_keys', 'quota_limits',
                             'projects', 'clusters', 'project_members', 'project_role_permissions', 'project_settings'] LOOP
        EXECUTE format('CREATE TRIGGER authority_changed AFTER INSERT OR UPDATE OR DELETE ON tenancy.%I
                        FOR EACH ROW EXECUTE FUNCTION tenancy.authority_changed()', t);
        EXECUTE format('CREATE TRIGGER authority_truncated AFTER TRUNCATE ON tenancy.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION tenancy.authority_changed()', t);
        EXECUTE format('ALTER TABLE tenancy.%I ENABLE ALWAYS TRIGGER authority_changed', t);
        EXECUTE format('ALTER TABLE tenancy.%I ENABLE ALWAYS TRIGGER authority_truncated', t);
    END LOOP;
END
$$;

-- The owner's membership row mirrors orgs.owner_id. The check runs for everyone, superusers included; the mirror
-- stays out of the way of a restore and of a subscriber, which bring the mirrored row themselves.
CREATE TRIGGER check_membership BEFORE INSERT OR UPDATE OR DELETE ON tenancy.memberships
    FOR EACH ROW EXECUTE FUNCTION tenancy.check_membership();
ALTER TABLE tenancy.memberships ENABLE ALWAYS TRIGGER check_membership;

-- The owner is never limited, and the first rule limits a membership, whoever writes it.
CREATE TRIGGER check_membership_scope BEFORE INSERT OR UPDATE ON tenancy.membership_scopes
    FOR EACH ROW EXECUTE FUNCTION tenancy.check_membership_scope();
ALTER TABLE tenancy.membership_scopes ENABLE ALWAYS TRIGGER check_membership_scope;

CREATE TRIGGER check_org BEFORE UPDATE ON tenancy.orgs
    FOR EACH ROW EXECUTE FUNCTION tenancy.check_org();
ALTER TABLE tenancy.orgs ENABLE ALWAYS TRIGGER check_org;

-- No row trigger sees a TRUNCATE; it would leave organizations without their members.
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON tenancy.memberships
    FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_truncate();
ALTER TABLE tenancy.memberships ENABLE ALWAYS TRIGGER guard_truncate;

-- The published roles, actions and levels are everybody's.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['roles', 'actions', 'role_permissions'] LOOP
        EXECUTE format('CREATE TRIGGER keep_published BEFORE INSERT OR UPDATE OR DELETE ON tenancy.%I
                        FOR EACH ROW EXECUTE FUNCTION tenancy.keep_published()', t);
        EXECUTE format('CREATE TRIGGER keep_published_whole BEFORE TRUNCATE ON tenancy.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION tenancy.keep_published()', t);
        EXECUTE format('ALTER TABLE tenancy.%I ENABLE ALWAYS TRIGGER keep_published', t);
        EXECUTE format('ALTER TABLE tenancy.%I ENABLE ALWAYS TRIGGER keep_published_whole', t);
    END LOOP;
END
$$;

-- What was written down stays so.
CREATE TRIGGER tenancy_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tenancy.bypass_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_audit();
ALTER TABLE tenancy.bypass_ledger ENABLE ALWAYS TRIGGER tenancy_append_only;

CREATE TRIGGER mirror_owner AFTER INSERT OR UPDATE OF owner_id ON tenancy.orgs
    FOR EACH ROW EXECUTE FUNCTION tenancy.mirror_owner();
