-- Invitations (spec 3.5). Nobody is granted anything here: who may see them asks list_invitations(), which leaves out the
-- hashes of the tokens.
CREATE TABLE tenancy.invitations (
    id                    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id                uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    -- In lower case, as people are told apart (users_email_key).
    email                 text NOT NULL CHECK (email = lower(email)),
    role                  text NOT NULL CHECK (role <> 'owner'),
    token_hash            bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    -- Who sent it: a member, whose account's end is the invitation's too, or a DBA by his database role.
    invited_by            uuid REFERENCES tenancy.users (id) ON DELETE CASCADE,
    invited_login         name,
    created_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at            timestamptz NOT NULL,
    membership_expires_at timestamptz,
    accepted_at           timestamptz,
    accepted_by           uuid REFERENCES tenancy.users (id) ON DELETE SET NULL,
    revoked_at            timestamptz,
    CHECK ((invited_by IS NULL) <> (invited_login IS NULL)),
    CHECK (accepted_at IS NULL OR revoked_at IS NULL)
);
CREATE UNIQUE INDEX invitations_pending_key ON tenancy.invitations (org_id, email)
    WHERE accepted_at IS NULL AND revoked_at IS NULL;
CREATE INDEX invitations_org_id_idx ON tenancy.invitations (org_id);
CREATE INDEX invitations_invited_by_idx ON tenancy.invitations (invited_by);
CREATE INDEX invitations_accepted_by_idx ON tenancy.invitations (accepted_by);
ALTER TABLE tenancy.invitations ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE tenancy.invitations IS
    'Who was invited to which organization, as what, and by whom; read through list_invitations() (spec 3.5)';
SELECT pg_catalog.pg_extension_config_dump('tenancy.invitations', '');

COMMENT ON FUNCTION tenancy.invite(uuid, text, text, interval, timestamptz) IS
    'Invites an email address to an organization and returns a token, once; needs team:invite (spec 3.5)';
COMMENT ON FUNCTION tenancy.accept_invitation(text) IS
    'Makes the session''s user the member that an invitation of his address says; for whoever holds its token (spec 3.5)';
COMMENT ON FUNCTION tenancy.revoke_invitation(uuid) IS
    'Takes an invitation back that nobody accepted yet; needs team:invite (spec 3.5)';
COMMENT ON FUNCTION tenancy.list_invitations(uuid) IS
    'The invitations of an organization, without their tokens; needs team:invite (spec 3.5)';

COMMENT ON FUNCTION tenancy.suspend_org(uuid, text) IS
    'Lets an organization''s rows be read and not written, and says why; for the DBA (spec 3.9)';
COMMENT ON FUNCTION tenancy.resume_org(uuid) IS
    'Ends a suspension; for the DBA (spec 3.9)';

-- What remains of a deleted organization (spec 3.9): neither its name nor its people. Made when the deletion is begun, and
-- what that goes on by. Nobody is granted anything: list_tombstones() is the DBA's.
CREATE TABLE tenancy.tombstones (
    org_id        uuid PRIMARY KEY,
    slug          text NOT NULL,
    external_key  text,
    audit_store   text NOT NULL,
    created_at    timestamptz NOT NULL,
    deleted_at    timestamptz NOT NULL,
    deleted_by    uuid,
    deleted_login name NOT NULL,
    -- In this cluster transactions below this one may have written before they heard of the deletion.
    barrier       xid8,
    cluster       bigint,
    removed       jsonb NOT NULL DEFAULT '{}',
    finished_at   timestamptz,
    audit_head    text
);
CREATE INDEX tombstones_slug_idx ON tenancy.tombstones (slug);
CREATE INDEX tombstones_external_key_idx ON tenancy.tombstones (external_key);
ALTER TABLE tenancy.tombstones ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE tenancy.tombstones IS
    'What remains of deleted organizations, and how far each deletion is; read through list_tombstones() (spec 3.9)';
SELECT pg_catalog.pg_extension_config_dump('tenancy.tombstones', '');

COMMENT ON FUNCTION tenancy.delete_org(uuid, text) IS
    'Deletes an organization, whose name is typed as confirmation: nobody enters it any more; for its owner (spec 3.9)';
COMMENT ON FUNCTION tenancy.continue_deletion(uuid, integer) IS
    'Removes rows of a deleted organization for less than a second; for the DBA, applications, and who deleted it (spec 3.9)';
COMMENT ON PROCEDURE tenancy.finish_deletion(uuid, integer) IS
    'Removes the rows of a deleted organization, or of all that wait, in short transactions; for whom continue_deletion() is (spec 3.9)';
COMMENT ON FUNCTION tenancy.list_tombstones() IS
    'What remains of deleted organizations; for the DBA (spec 3.9)';
COMMENT ON FUNCTION tenancy.delete_user(uuid) IS
    'Deletes a person''s account, unless he owns an organization; for the DBA (spec 3.2)';
