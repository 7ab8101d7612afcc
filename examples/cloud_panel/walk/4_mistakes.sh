# shellcheck shell=bash
chapter "4. What goes wrong in real applications"

prose "A forgotten WHERE. It reaches this organization's rows, never another's:"
before=$(sql postgres -Atc "SELECT count(*) FROM backups b JOIN tenancy.orgs o ON o.id = b.org_id WHERE slug = 'globex'")
keep=yes answers "DELETE 2" "a DELETE without WHERE stops at the organization's edge" mia acme <<'SQL'
DELETE FROM backups;
SQL
same "Globex's backups are all there" \
  "$(sql postgres -Atc "SELECT count(*) FROM backups b JOIN tenancy.orgs o ON o.id = b.org_id WHERE slug = 'globex'")" "$before"

prose "A wrong id, such as one out of another client's URL: as if it did not exist."
answers "(0 rows)" "reading by another organization's id finds nothing" ben acme <<'SQL'
SELECT name FROM servers WHERE id = '910b0000-0000-4000-8000-000000000001';
SQL
answers "DELETE 0" "deleting by it deletes nothing" ben acme <<'SQL'
DELETE FROM servers WHERE id = '910b0000-0000-4000-8000-000000000001';
SQL
refused 42501 "a row filed under another organization is refused" ben acme <<'SQL'
INSERT INTO servers (org_id, name) VALUES (:'globex', 'planted');
SQL
refused 42501 "so is moving a row there" ben acme <<'SQL'
UPDATE servers SET org_id = :'globex' WHERE name = 'idle-1';
SQL

prose "A foreign key to another organization's server, and one to a server that does not exist. \
Plain PostgreSQL stores the first. Here the two errors are equal, so nobody can find out by trying \
which ids exist:"
refused 23503 "a reference across organizations is refused" mia acme <<'SQL'
INSERT INTO sites (server_id, domain)
VALUES ('910b0000-0000-4000-8000-000000000001', 'probe.example');
SQL
foreign=$raw
refused 23503 "a reference to nothing is refused" mia acme <<'SQL'
INSERT INTO sites (server_id, domain)
VALUES ('910b0000-0000-4000-8000-00000000dead', 'probe.example');
SQL
same "both errors are the same in every field that a client can read" \
  "${foreign//-000000000001/-ID}" "${raw//-00000000dead/-ID}"

prose "Somebody whose role may only look:"
refused 42501 "a viewer's write is an error, not a silent zero rows" vic acme <<'SQL'
UPDATE sites SET php_version = '7.4';
SQL
refused 42501 "also where no row would have been touched" vic acme <<'SQL'
DELETE FROM servers WHERE false;
SQL

prose "TRUNCATE would empty the table for everybody. Even a login that was granted it may not:"
sql postgres -c "GRANT TRUNCATE ON alert_events TO panel_app"
refused 42501 "nobody truncates a protected table" ada acme <<'SQL'
TRUNCATE alert_events;
SQL
