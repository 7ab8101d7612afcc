# shellcheck shell=bash
chapter "1. Another organization, another database"

prose "Ada's agency runs two clients in one database. The same statements, with nothing but the \
setting app.current_org changed:"

look="SELECT name, region, size FROM servers ORDER BY name;"
answers "(3 rows)" "in Acme, Ada sees Acme's three servers" ada acme <<<"$look"
answers "(2 rows)" "in Globex, the same statement shows Globex's two" ada globex <<<"$look"

same "every other table changes with it" \
  "$(for org in acme globex; do
    scalar ada $org <<'SQL'
SELECT (SELECT count(*) FROM sites), (SELECT count(*) FROM apps), (SELECT count(*) FROM backups),
       (SELECT count(*) FROM alert_events), (SELECT monthly_cents FROM billing);
SQL
  done)" \
  "$(printf '3|2|2|2|12900\n2|0|1|0|49900')"

answers "(2 rows)" "Ada may go to two organizations" ada - <<'SQL'
SELECT name, slug, role FROM tenancy.my_orgs() ORDER BY slug;
SQL
answers "(1 row)" "Mia only to her own" mia - <<'SQL'
SELECT name, slug, role FROM tenancy.my_orgs() ORDER BY slug;
SQL

prose "A claim has no authority: Mia belongs to Acme and says Globex. Reading shows nothing, \
writing is an error that says why, and so does whoami()."
answers "(0 rows)" "a claim without membership shows no rows" mia globex <<<"$look"
refused 42501 "and writes nothing" mia globex <<'SQL'
UPDATE servers SET size = 'cx11';
SQL
answers "(1 row)" "whoami() says what is missing" mia globex <<'SQL'
SELECT principal, reason FROM tenancy.whoami();
SQL
same "an organization that does not exist gives the same answer" \
  "$(run mia no-such-org <<<"UPDATE servers SET size = 'cx11';"; sed 's/no-such-org/ORG/g' <<<"$answer")" \
  "$(run mia globex <<<"UPDATE servers SET size = 'cx11';"; sed 's/globex/ORG/g' <<<"$answer")"

prose "No context at all: no rows, and no write."
answers "(0 rows)" "without a context, no rows" - - <<<"$look"
refused 42501 "without a context, no write" - - <<'SQL'
DELETE FROM servers;
SQL
refused 25001 "one transaction, one organization" ada acme <<'SQL'
SELECT count(*) FROM servers;
SET LOCAL app.current_org = 'globex';
SELECT count(*) FROM servers;
SQL
