-- The same work whatever the number of organizations: {rows} rows in all, of which the first organization has 2,000 and the
-- others an equal share each. The audited table has 20,000 rows, and 1,000 of the first organization, all logged.

CREATE SCHEMA g;
GRANT USAGE ON SCHEMA g TO PUBLIC;
CREATE TABLE g.items (
    id bigint PRIMARY KEY, org_id uuid NOT NULL, at timestamptz NOT NULL, title text NOT NULL, visits int NOT NULL);
INSERT INTO g.items
SELECT n, o.id, to_timestamp(1735689600 + n * 30), 'item ' || md5(n::text), n % 1000
FROM generate_series(1, {rows}) AS n
JOIN stage.orgs o ON o.ordinal = CASE WHEN n % ({rows} / 2000) = 0 THEN 1 ELSE 2 + n % ({orgs} - 1) END
ORDER BY n;
CREATE INDEX ON g.items (org_id, at);

CREATE TABLE g.audited (id bigint PRIMARY KEY, org_id uuid NOT NULL, title text NOT NULL, visits int NOT NULL);
CREATE INDEX ON g.audited (org_id);
CREATE TABLE g.unaudited (LIKE g.audited INCLUDING ALL);
CREATE SEQUENCE g.ids START 1000000 CACHE 1000;
GRANT ALL ON g.ids, g.items, g.audited, g.unaudited TO PUBLIC;

SELECT tenancy.protect('g.items', audit => false);
SELECT tenancy.protect('g.audited');
SELECT tenancy.protect('g.unaudited', audit => false);

SET row_security = off;
INSERT INTO g.audited
SELECT n, o.id, 'item ' || md5(n::text), n % 1000
FROM generate_series(1, 21000) AS n
JOIN stage.orgs o ON o.ordinal = CASE WHEN n % 21 = 0 THEN 1 ELSE 3 + n % ({orgs} - 2) END;
RESET row_security;
