# shellcheck shell=bash
chapter "3. The matrix, tried for real"

prose "Each row of the published matrix, tried by each of Acme's four people on Acme's own rows \
(every attempt is rolled back). What must happen is read from the published matrix."

level() { # ROLE ACTION: the published cell
  awk -F, -v role="$1" -v action="$2" '
    NR == 1 { for (i = 1; i <= NF; i++) if ($i == role) column = i }
    $1 == action { print $column }' "$matrix"
}

row() { printf '\n  %s%s%s\n' "$bold" "$1" "$off"; }

# attempt ACTION 'ANSWER WHERE ALLOWED' 'ANSWER WHERE NOT' <<SQL: all four roles; an answer is the last line or a SQLSTATE.
attempt() {
  local action=$1 allowed=$2 denied=$3 statement user wanted got
  statement=$(cat)
  printf '    %s(%s)%s\n' "$dim" "$action" "$off"
  indent <<<"$statement"
  for user in ada ben mia vic; do
    run "$user" acme <<<"$statement"
    got=${state:-$(sed '/^ *$/d' <<<"$answer" | tail -n 1)}
    wanted=$denied
    [ "$(level "${role_of[$user]}" "$action")" = allow ] && wanted=$allowed
    [ -n "$state" ] && answer=$(grep '^ERROR' <<<"$answer") || answer=$got
    printf '      %-5s %-7s %s\n' "${name_of[$user]}" "${role_of[$user]}" "$answer" |
      wrap 20
    [ "$got" = "$wanted" ] || broken "$action as ${role_of[$user]}" "expected $wanted, got $got"
    checks=$((checks + 1))
  done
}

# asked ACTION...: no table stands behind it yet, so the level in force is asked.
asked() {
  local action user got
  for action in "$@"; do
    printf '    %-12s' "$action"
    for user in ada ben mia vic; do
      got=$(scalar "$user" acme <<<"SELECT tenancy.permission_level(tenancy.current_role_name(), '$action');")
      printf '  %s' "${role_of[$user]} $got"
      [ "$got" = "$(level "${role_of[$user]}" "$action")" ] || broken "$action as ${role_of[$user]}" "got $got"
      checks=$((checks + 1))
    done
    printf '\n'
  done
}

row "View monitoring and metrics"
attempt monitoring:read "(2 rows)" "(0 rows)" <<<"SELECT value, raised_at FROM alert_events;"
attempt server:read "(3 rows)" "(0 rows)" <<<"SELECT name FROM servers;"

row "Deploy sites and apps"
attempt site:deploy "INSERT 0 1" 42501 <<'SQL'
INSERT INTO sites (server_id, domain)
VALUES ('acce0000-0000-4000-8000-000000000003', 'new.acme.example');
SQL
attempt site:deploy "UPDATE 1" 42501 <<<"UPDATE sites SET release = 'v42' WHERE domain = 'acme.example';"
attempt site:manage "UPDATE 1" 42501 <<<"UPDATE sites SET php_version = '8.4' WHERE domain = 'acme.example';"
attempt app:deploy "UPDATE 1" 42501 <<<"UPDATE apps SET release = 'v18' WHERE name = 'cart';"
attempt app:manage "UPDATE 1" 42501 <<<"UPDATE apps SET replicas = 5 WHERE name = 'cart';"

row "Create and restore backups"
attempt backup:create "INSERT 0 1" 42501 <<'SQL'
INSERT INTO backups (site_id)
VALUES ('acce0000-0000-4000-8000-000000000013');
SQL
attempt backup:restore "UPDATE 2" 42501 <<<"UPDATE backups SET restored_at = now();"
attempt backup:manage "DELETE 2" 42501 <<<"DELETE FROM backups;"

row "Provision new servers"
attempt server:create "INSERT 0 1" 42501 <<'SQL'
INSERT INTO servers (name) VALUES ('web-3');
SQL

row "Delete servers"
attempt server:delete "DELETE 1" 42501 <<<"DELETE FROM servers WHERE name = 'idle-1';"

row "Change firewall rules"
attempt server:firewall "UPDATE 1" 42501 <<'SQL'
UPDATE servers SET firewall_rules = '[{"port": 22, "from": "0.0.0.0/0"}]' WHERE name = 'web-1';
SQL

row "Approve AI write actions (approvals themselves come in a later version)"
asked ai:approve

row "Manage team members"
attempt team:invite "(1 row)" 42501 <<<"SELECT tenancy.add_member(:'acme', :'gil', 'viewer');"
attempt team:role "(1 row)" 42501 <<<"SELECT tenancy.set_member_role(:'acme', :'tom', 'viewer');"
attempt team:remove "(1 row)" 42501 <<<"SELECT tenancy.remove_member(:'acme', :'tom');"

row "Change AI settings (no table of this version stands behind them)"
asked ai:provider ai:controls

row "Change billing"
attempt billing:read "(1 row)" "(0 rows)" <<<"SELECT plan, monthly_cents FROM billing;"
attempt billing:manage "UPDATE 1" 42501 <<<"UPDATE billing SET plan = 'business';"

row "View audit log"
attempt org:audit "(1 row)" 42501 <<<"SELECT count(*) > 0 AS any FROM tenancy.audit_log;"

row "Delete organization (the deletion itself comes in a later version)"
asked org:delete

row "And the panel's other tables"
attempt cloud_account:read "(1 row)" "(0 rows)" <<<"SELECT label FROM cloud_accounts;"
attempt cloud_account:create "INSERT 0 1" 42501 <<'SQL'
INSERT INTO cloud_accounts (provider, label, token_hint)
VALUES ('vultr', 'Spare', '...0000');
SQL
attempt notification:read "(1 row)" "(0 rows)" <<<"SELECT kind, target FROM notification_channels;"
attempt notification:manage "UPDATE 1" 42501 <<<"UPDATE notification_channels SET target = '#ops';"
attempt alert:read "(1 row)" "(0 rows)" <<<"SELECT metric, threshold FROM alert_rules;"
attempt alert:manage "UPDATE 1" 42501 <<<"UPDATE alert_rules SET threshold = 95;"
attempt monitoring:manage "DELETE 2" 42501 <<<"DELETE FROM alert_events;"
attempt ai:memory "(1 row)" "(0 rows)" <<<"SELECT topic FROM ai_memories;"
attempt ai:memory "UPDATE 1" 42501 <<<"UPDATE ai_memories SET content = 'Any day will do.';"
attempt server:update "UPDATE 1" 42501 <<<"UPDATE servers SET size = 'cx52' WHERE name = 'web-1';"
attempt site:delete "DELETE 1" 42501 <<<"DELETE FROM sites WHERE domain = 'docs.acme.example';"
attempt app:delete "DELETE 2" 42501 <<<"DELETE FROM apps;"
printf '\n'
held "every attempt ended as the matrix says"
