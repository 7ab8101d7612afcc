-- The members of an organization in words: what state their membership is in, and under which conditions it counts. Both
-- under the row security of what they read, so that team:read shows the team and everybody sees himself.

CREATE VIEW tenancy.member_states WITH (security_invoker = true) AS
SELECT m.org_id, m.user_id, m.role, m.custom_role,
       CASE WHEN m.expires_at <= pg_catalog.clock_timestamp() THEN 'expired'
            WHEN m.custom_role IS NOT NULL AND r.active IS NOT TRUE THEN 'inactive role'
            WHEN m.scoped THEN 'scoped'
            ELSE 'active' END AS status,
       nullif(pg_catalog.concat_ws('; ',
           'until ' || pg_catalog.to_char(m.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC',
           'from ' || pg_catalog.array_to_string(m.allowed_networks, ', ')), '') AS conditions,
       m.expires_at, m.created_at
FROM tenancy.memberships AS m
     LEFT JOIN tenancy.custom_roles AS r ON r.org_id = m.org_id AND r.name = m.custom_role;
COMMENT ON VIEW tenancy.member_states IS
    'Memberships with their state (active, scoped, expired, inactive role) and the conditions under which they count (spec 2, 3)';
GRANT SELECT ON tenancy.member_states TO PUBLIC;

CREATE VIEW tenancy.members WITH (security_invoker = true) AS
SELECT m.user_id, u.email, u.name, m.role, m.custom_role IS NOT NULL AS custom, m.status, m.conditions, m.expires_at, m.created_at,
       (SELECT pg_catalog.string_agg(p.name || ': ' || r.role, '; ' ORDER BY p.name, p.id)
        FROM tenancy.project_members AS r JOIN tenancy.projects AS p ON p.id = r.project_id
        WHERE r.org_id = m.org_id AND r.user_id = m.user_id) AS project_roles
FROM tenancy.member_states AS m JOIN tenancy.users AS u ON u.id = m.user_id
WHERE m.org_id = tenancy.current_org();
COMMENT ON VIEW tenancy.members IS
    'The members of the current organization for those who hold team:read, else oneself (spec 2, 3)';
GRANT SELECT ON tenancy.members TO PUBLIC;
