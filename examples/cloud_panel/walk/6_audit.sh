# shellcheck shell=bash
chapter "6. Each organization's own audit log"

last="SELECT at::timestamp(0), u.name AS actor, operation, object
FROM tenancy.audit_log l LEFT JOIN tenancy.users u ON u.id = l.actor_id
ORDER BY at DESC, n DESC LIMIT 6;"
answers "(6 rows)" "Acme's owner reads Acme's log" ben acme <<<"$last"
answers "(6 rows)" "Globex's owner reads Globex's" ada globex <<<"$last"

same "each log holds its own organization's rows only" \
  "$(for who in ben.acme ada.globex; do
    scalar ${who%.*} ${who#*.} <<<"SELECT count(DISTINCT org_id), min(org_id::text) = tenancy.current_org()::text FROM tenancy.audit_log;"
  done | paste -sd ' ')" "1|t 1|t"
same "the rows Mia deleted stand there with what was in them" \
  "$(scalar ben acme <<'SQL'
SELECT count(*), bool_and(old ? 'size_bytes')
FROM tenancy.read_audit(object => 'public.backups', operation => 'DELETE') r
JOIN tenancy.users u ON u.id = r.actor_id WHERE u.name = 'Mia';
SQL
  )" "2|t"
same "so does the transfer of ownership, by Ada" \
  "$(scalar ben acme <<'SQL'
SELECT u.name, r.result FROM tenancy.read_audit(operation => 'transfer_ownership') r
JOIN tenancy.users u ON u.id = r.actor_id;
SQL
  )" "Ada|completed"

refused 42501 "a member does not read the log" mia acme <<'SQL'
SELECT operation, object FROM tenancy.audit_log;
SQL
refused 42501 "nobody touches what it is stored in, the owner included" ben acme <<SQL
DELETE FROM tenancy_audit.org_$(sql postgres -Atc "SELECT replace(id::text, '-', '') FROM tenancy.orgs WHERE slug = 'acme'");
SQL
