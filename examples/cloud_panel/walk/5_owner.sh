# shellcheck shell=bash
chapter "5. Exactly one owner, always"

refused 23514 "no second owner" ada acme <<'SQL'
SELECT tenancy.set_member_role(:'acme', :'ben', 'owner');
SQL
refused 23514 "the owner is not removed" ada acme <<'SQL'
SELECT tenancy.remove_member(:'acme', :'ada');
SQL
refused 23514 "the owner is not demoted" ada acme <<'SQL'
SELECT tenancy.set_member_role(:'acme', :'ada', 'member');
SQL
refused 42501 "nor by writing the table" ada acme <<'SQL'
UPDATE tenancy.memberships SET role = 'owner' WHERE user_id = :'ben';
SQL
refused 42501 "an admin does not take ownership" ben acme <<'SQL'
SELECT tenancy.transfer_ownership(:'acme', :'ben');
SQL
refused 22023 "ownership does not go to a stranger (Gil is of Globex)" ada acme <<'SQL'
SELECT tenancy.transfer_ownership(:'acme', :'gil');
SQL

keep=yes answers "(1 row)" "the owner hands Acme to Ben" ada acme <<'SQL'
SELECT tenancy.transfer_ownership(:'acme', :'ben');
SQL
answers "(5 rows)" "one owner still; Ada stays, as admin" ben acme <<'SQL'
SELECT u.name, m.role
FROM tenancy.memberships m JOIN tenancy.users u ON u.id = m.user_id
ORDER BY m.role = 'owner' DESC, u.name;
SQL
same "Ben is the owner now, Ada is admin in Acme and owner in Globex" \
  "$(for who in ben.acme ada.acme ada.globex; do
    scalar ${who%.*} ${who#*.} <<<"SELECT tenancy.current_role_name();"
  done | paste -sd ' ')" "owner admin owner"
refused 42501 "what only the owner may do is no longer Ada's" ada acme <<'SQL'
SELECT tenancy.remove_member(:'acme', :'tom');
SQL
