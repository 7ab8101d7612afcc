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
