# shellcheck shell=bash
chapter "2. The permission matrix, all 48 actions by four roles"

prose "Owner, admin, member, viewer, in this order: + allowed, ~ limited, - denied."
printf '\n'

published=$(sed 1d "$matrix" | sort)
line='' category='' cell=''
while IFS=, read -r action group owner admin member viewer; do
  cell="${action#*:} $owner$admin$member$viewer"
  cell=$(sed 's/allow/+/g; s/limited/~/g; s/deny/-/g' <<<"$cell")
  if [ "$group" != "$category" ]; then
    [ -z "$line" ] || printf '  %s\n' "${line%   }"
    line=$(printf '%-14s' "$group") category=$group
  elif [ $((${#line} + ${#cell})) -gt $((width - 2)) ]; then
    printf '  %s\n' "${line%   }"
    line=$(printf '%-14s' '')
  fi
  line+="$cell   "
done < <(sed 1d "$matrix")
printf '  %s\n\n' "${line%   }"

as_csv="string_agg(level, ',' ORDER BY array_position('{owner,admin,member,viewer}', role))"
same "the table tenancy.role_permissions says the same, 192 cells" \
  "$(scalar ada acme <<SQL | sort
SELECT a.name || ',' || a.category || ',' || $as_csv
FROM tenancy.role_permissions p JOIN tenancy.actions a ON a.name = p.action
WHERE p.role IN ('owner', 'admin', 'member', 'viewer') GROUP BY a.name, a.category;
SQL
  )" "$published"

same "permission_level() says the same, 192 cells" \
  "$(scalar ada acme <<SQL | sort
SELECT name || ',' || category || ',' || $as_csv
FROM tenancy.actions, unnest('{owner,admin,member,viewer}'::text[]) role,
     LATERAL (SELECT tenancy.permission_level(role, name)) l(level) GROUP BY name, category;
SQL
  )" "$published"

same "has_permission(role, action) is true for allow alone, 192 cells" \
  "$(scalar ada acme <<'SQL'
SELECT count(*), count(*) FILTER (WHERE tenancy.has_permission(p.role, p.action) = (p.level = 'allow'))
FROM tenancy.role_permissions p WHERE p.role IN ('owner', 'admin', 'member', 'viewer');
SQL
  )" "192|192"

for user in ada ben mia vic; do
  same "has_permission(action) as ${role_of[$user]}: 48 cells" \
    "$(scalar "$user" acme <<'SQL' | sort
SELECT name FROM tenancy.actions WHERE tenancy.has_permission(name);
SQL
    )" "$(awk -F, -v role="${role_of[$user]}" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == role) column = i; next }
        $column == "allow" { print $1 }' "$matrix" | sort)"
done

refused 22023 "a misspelled action is an error, never a silent false" ada acme <<'SQL'
SELECT tenancy.has_permission('servers:read');
SQL
