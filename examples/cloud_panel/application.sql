-- The panel's own login: an ordinary role, no superuser, nothing that bypasses row security. Being trusted, it may
-- name the user it acts for, transaction by transaction.

CREATE ROLE panel_app LOGIN;
SELECT tenancy.trust_application('panel_app');

GRANT SELECT, INSERT, UPDATE, DELETE ON
  cloud_accounts, servers, sites, apps, backups, notification_channels, alert_rules, alert_events, ai_memories, billing
TO panel_app;
