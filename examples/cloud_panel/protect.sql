-- One call per table: which right reads it, which rights write it, and which columns ask for a right of their own.
-- From here on every row belongs to one organization, whoever asks, by whatever road.

SELECT tenancy.protect('cloud_accounts', permissions => '{
  "select": "cloud_account:read",
  "insert": "cloud_account:create",
  "update": "cloud_account:create",
  "delete": "cloud_account:delete"}');

SELECT tenancy.protect('servers', permissions => '{
  "select": "server:read",
  "insert": "server:create",
  "update": "server:update",
  "delete": "server:delete",
  "columns": {"firewall_rules": "server:firewall"}}');

SELECT tenancy.protect('sites', permissions => '{
  "select": "site:read",
  "insert": "site:deploy",
  "update": "site:manage",
  "delete": "site:delete",
  "columns": {"release": "site:deploy"}}');

SELECT tenancy.protect('apps', permissions => '{
  "select": "app:read",
  "insert": "app:deploy",
  "update": "app:manage",
  "delete": "app:delete",
  "columns": {"release": "app:deploy"}}');

SELECT tenancy.protect('backups', permissions => '{
  "select": "backup:read",
  "insert": "backup:create",
  "update": "backup:manage",
  "delete": "backup:manage",
  "columns": {"restored_at": "backup:restore"}}');

SELECT tenancy.protect('notification_channels', permissions => '{
  "select": "notification:read",
  "insert": "notification:manage",
  "update": "notification:manage",
  "delete": "notification:manage"}');

SELECT tenancy.protect('alert_rules', permissions => '{
  "select": "alert:read",
  "insert": "alert:manage",
  "update": "alert:manage",
  "delete": "alert:manage"}');

SELECT tenancy.protect('alert_events', permissions => '{
  "select": "monitoring:read",
  "insert": "monitoring:manage",
  "update": "monitoring:manage",
  "delete": "monitoring:manage"}');

SELECT tenancy.protect('ai_memories', permissions => '{
  "select": "ai:memory",
  "insert": "ai:memory",
  "update": "ai:memory",
  "delete": "ai:memory"}');

SELECT tenancy.protect('billing', permissions => '{
  "select": "billing:read",
  "insert": "billing:manage",
  "update": "billing:manage",
  "delete": "billing:manage"}');
