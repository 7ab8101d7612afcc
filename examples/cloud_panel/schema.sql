-- A cloud control panel, as an application would write it without pg_tenancy: plain tables, uuid keys,
-- single-column foreign keys. Nothing below knows about isolation; protect.sql adds it.

CREATE TABLE cloud_accounts (
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id     uuid NOT NULL,
  provider   text NOT NULL CHECK (provider IN ('hetzner', 'digitalocean', 'aws', 'vultr')),
  label      text NOT NULL,
  token_hint text NOT NULL,
  added_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE servers (
  id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id           uuid NOT NULL,
  cloud_account_id uuid REFERENCES cloud_accounts (id),
  name             text NOT NULL,
  region           text NOT NULL DEFAULT 'fsn1',
  size             text NOT NULL DEFAULT 'cx22',
  ipv4             inet,
  firewall_rules   jsonb NOT NULL DEFAULT '[{"port": 443, "from": "0.0.0.0/0"}]',
  created_at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, name)
);

CREATE TABLE sites (
  id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id          uuid NOT NULL,
  server_id       uuid NOT NULL REFERENCES servers (id),
  domain          text NOT NULL,
  php_version     text NOT NULL DEFAULT '8.3',
  release         text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, domain)
);

CREATE TABLE apps (
  id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id    uuid NOT NULL,
  site_id   uuid NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
  name      text NOT NULL,
  image     text NOT NULL,
  replicas  int NOT NULL DEFAULT 1 CHECK (replicas BETWEEN 0 AND 50),
  release   text
);

CREATE TABLE backups (
  id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id      uuid NOT NULL,
  site_id     uuid NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
  size_bytes  bigint,
  taken_at    timestamptz NOT NULL DEFAULT now(),
  keep_until  date,
  restored_at timestamptz
);

CREATE TABLE notification_channels (
  id     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id uuid NOT NULL,
  kind   text NOT NULL CHECK (kind IN ('email', 'slack', 'webhook')),
  target text NOT NULL
);

CREATE TABLE alert_rules (
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id     uuid NOT NULL,
  server_id  uuid NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
  channel_id uuid REFERENCES notification_channels (id) ON DELETE SET NULL,
  metric     text NOT NULL,
  threshold  numeric NOT NULL
);

CREATE TABLE alert_events (
  id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id    uuid NOT NULL,
  rule_id   uuid NOT NULL REFERENCES alert_rules (id) ON DELETE CASCADE,
  value     numeric NOT NULL,
  raised_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ai_memories (
  id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id  uuid NOT NULL,
  topic   text NOT NULL,
  content text NOT NULL
);

CREATE TABLE billing (
  id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  org_id         uuid NOT NULL UNIQUE,
  plan           text NOT NULL CHECK (plan IN ('starter', 'team', 'business')),
  payment_method text NOT NULL,
  monthly_cents  int NOT NULL CHECK (monthly_cents >= 0)
);

CREATE INDEX ON sites (server_id);
CREATE INDEX ON apps (site_id);
CREATE INDEX ON backups (site_id);
CREATE INDEX ON alert_rules (server_id);
CREATE INDEX ON alert_rules (channel_id);
CREATE INDEX ON alert_events (rule_id);
