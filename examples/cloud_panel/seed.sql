-- People, two client organizations of one agency, and their data, all made by the panel's login (psql, for \gset):
-- no superuser, no break-glass. Ada's agency owns both orgs; the others belong to one each.
-- Keys are readable on purpose: acce... is Acme's, 910b... is Globex's.

-- The application registers people. The third argument is its own key for them, usable wherever a uuid is.
SELECT tenancy.create_user('ada@agency.example',   'Ada',  'ada')  AS ada  \gset
SELECT tenancy.create_user('ben@acme.example',     'Ben',  'ben')  AS ben  \gset
SELECT tenancy.create_user('mia@acme.example',     'Mia',  'mia')  AS mia  \gset
SELECT tenancy.create_user('tom@acme.example',     'Tom',  'tom')  AS tom  \gset
SELECT tenancy.create_user('vic@acme.example',     'Vic',  'vic')  AS vic  \gset
SELECT tenancy.create_user('gil@globex.example',   'Gil',  'gil')  AS gil  \gset
SELECT tenancy.create_user('max@globex.example',   'Max',  'max')  AS max  \gset
SELECT tenancy.create_user('vera@globex.example',  'Vera', 'vera') AS vera \gset

SELECT tenancy.create_org('Acme Ltd',   'acme',   :'ada', 'acme')   AS acme   \gset
SELECT tenancy.create_org('Globex Inc', 'globex', :'ada', 'globex') AS globex \gset

-- Acme, as Ada -------------------------------------------------------------------------------------------------------
BEGIN;
SET LOCAL app.current_org = 'acme';
SET LOCAL app.current_user_id = 'ada';
-- Rows need no org_id: protect() gave the column the current organization as its default.
SELECT tenancy.add_member(:'acme', :'ben', 'admin'), tenancy.add_member(:'acme', :'mia', 'member'),
       tenancy.add_member(:'acme', :'tom', 'member'), tenancy.add_member(:'acme', :'vic', 'viewer') \g /dev/null

INSERT INTO cloud_accounts (id, provider, label, token_hint) VALUES
  ('acce0000-0000-4000-8000-0000000000c1', 'hetzner', 'Acme production', '...7f3a');
INSERT INTO servers (id, cloud_account_id, name, region, size, ipv4) VALUES
  ('acce0000-0000-4000-8000-000000000001', 'acce0000-0000-4000-8000-0000000000c1', 'web-1', 'fsn1', 'cx32', '203.0.113.11'),
  ('acce0000-0000-4000-8000-000000000002', 'acce0000-0000-4000-8000-0000000000c1', 'web-2', 'nbg1', 'cx32', '203.0.113.12'),
  ('acce0000-0000-4000-8000-000000000003', 'acce0000-0000-4000-8000-0000000000c1', 'idle-1', 'hel1', 'cx22', '203.0.113.13');
INSERT INTO sites (id, server_id, domain, release) VALUES
  ('acce0000-0000-4000-8000-000000000011', 'acce0000-0000-4000-8000-000000000001', 'acme.example', 'v41'),
  ('acce0000-0000-4000-8000-000000000012', 'acce0000-0000-4000-8000-000000000001', 'shop.acme.example', 'v17'),
  ('acce0000-0000-4000-8000-000000000013', 'acce0000-0000-4000-8000-000000000002', 'docs.acme.example', 'v3');
INSERT INTO apps (id, site_id, name, image, replicas, release) VALUES
  ('acce0000-0000-4000-8000-000000000021', 'acce0000-0000-4000-8000-000000000012', 'cart', 'acme/cart', 3, 'v17'),
  ('acce0000-0000-4000-8000-000000000022', 'acce0000-0000-4000-8000-000000000012', 'search', 'acme/search', 1, 'v9');
INSERT INTO backups (id, site_id, size_bytes, keep_until) VALUES
  ('acce0000-0000-4000-8000-000000000031', 'acce0000-0000-4000-8000-000000000011', 73400320, '2027-01-31'),
  ('acce0000-0000-4000-8000-000000000032', 'acce0000-0000-4000-8000-000000000012', 912680550, '2027-01-31');
INSERT INTO notification_channels (id, kind, target) VALUES
  ('acce0000-0000-4000-8000-000000000041', 'slack', '#acme-ops');
INSERT INTO alert_rules (id, server_id, channel_id, metric, threshold) VALUES
  ('acce0000-0000-4000-8000-000000000051', 'acce0000-0000-4000-8000-000000000001',
   'acce0000-0000-4000-8000-000000000041', 'cpu', 90);
INSERT INTO alert_events (rule_id, value) VALUES
  ('acce0000-0000-4000-8000-000000000051', 97.5),
  ('acce0000-0000-4000-8000-000000000051', 93.1);
INSERT INTO ai_memories (topic, content) VALUES
  ('deploys', 'Acme deploys on Tuesdays, never in December.');
INSERT INTO billing (plan, payment_method, monthly_cents) VALUES
  ('team', 'visa-4242', 12900);
COMMIT;

-- Globex, as Ada again: another organization, hence another transaction -----------------------------------------------
BEGIN;
SET LOCAL app.current_org = 'globex';
SET LOCAL app.current_user_id = 'ada';
SELECT tenancy.add_member(:'globex', :'gil', 'admin'), tenancy.add_member(:'globex', :'max', 'member'),
       tenancy.add_member(:'globex', :'vera', 'viewer') \g /dev/null

INSERT INTO cloud_accounts (id, provider, label, token_hint) VALUES
  ('910b0000-0000-4000-8000-0000000000c1', 'aws', 'Globex main', '...d01c');
INSERT INTO servers (id, cloud_account_id, name, region, size, ipv4) VALUES
  ('910b0000-0000-4000-8000-000000000001', '910b0000-0000-4000-8000-0000000000c1', 'web-1', 'eu-1', 'm6', '198.51.100.21'),
  ('910b0000-0000-4000-8000-000000000002', '910b0000-0000-4000-8000-0000000000c1', 'db-1', 'eu-1', 'r6', '198.51.100.22');
INSERT INTO sites (id, server_id, domain, release) VALUES
  ('910b0000-0000-4000-8000-000000000011', '910b0000-0000-4000-8000-000000000001', 'globex.example', 'v8'),
  ('910b0000-0000-4000-8000-000000000012', '910b0000-0000-4000-8000-000000000001', 'jobs.globex.example', 'v2');
INSERT INTO backups (id, site_id, size_bytes, keep_until) VALUES
  ('910b0000-0000-4000-8000-000000000031', '910b0000-0000-4000-8000-000000000011', 51904512, '2027-03-31');
INSERT INTO billing (plan, payment_method, monthly_cents) VALUES
  ('business', 'invoice', 49900);
COMMIT;
