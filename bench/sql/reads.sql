-- The data of the reads: {events} events of 100,000 sites on 20,000 servers (in this proportion), one organization with
-- 40 percent, the others a long tail (the n-th largest has 1/n of the second's share). Rows of all organizations lie mixed.
-- Twice, row by row the same: schema ours is protected, schema hand has policies written by hand, one style per login.

SELECT setseed(0.42);

CREATE TABLE stage.shares AS
WITH share AS (
    SELECT ordinal, id AS org_id,
           CASE WHEN ordinal = 1 THEN 0.4
                ELSE 0.6 / ordinal / sum(CASE WHEN ordinal > 1 THEN 1.0 / ordinal END) OVER () END AS share
    FROM stage.orgs),
counted AS (
    SELECT *, greatest(1, round(share * {events} / 50))::bigint AS servers, greatest(1, round(share * {events} / 10))::bigint AS sites
    FROM share)
SELECT *, (sum(share) OVER (ORDER BY ordinal) - share)::float8 AS lower,
       (sum(servers) OVER (ORDER BY ordinal) - servers)::bigint AS servers_before,
       (sum(sites) OVER (ORDER BY ordinal) - sites)::bigint AS sites_before
FROM counted;
ANALYZE stage.shares;

CREATE SCHEMA hand;
CREATE SCHEMA ours;
GRANT USAGE ON SCHEMA hand, ours TO PUBLIC;

CREATE TABLE hand.servers (id bigint, org_id uuid NOT NULL, name text NOT NULL, region text NOT NULL);
CREATE TABLE hand.sites (id bigint, org_id uuid NOT NULL, server_id bigint NOT NULL, name text NOT NULL);
CREATE TABLE hand.events (
    id bigint, org_id uuid NOT NULL, site_id bigint, kind text NOT NULL, at timestamptz NOT NULL, title text NOT NULL,
    visits int NOT NULL, amount numeric(12, 2) NOT NULL);

INSERT INTO hand.servers
SELECT servers_before + n, org_id, 'server-' || n, (ARRAY['eu', 'us', 'ap'])[1 + n % 3]
FROM stage.shares, generate_series(1, servers) AS n ORDER BY random();
INSERT INTO hand.sites
SELECT sites_before + n, org_id, servers_before + 1 + floor(random() * servers)::bigint, 'site-' || n
FROM stage.shares, generate_series(1, sites) AS n ORDER BY random();
INSERT INTO hand.events
SELECT n, org_id, sites_before + 1 + floor(random() * sites)::bigint, (ARRAY['deploy', 'visit', 'backup', 'alert'])[1 + n % 4],
       to_timestamp(1735689600 + n * 30), 'event ' || md5(n::text), n % 1000, (n % 100000) / 100.0
FROM (SELECT n, width_bucket(random(), (SELECT array_agg(lower ORDER BY ordinal) FROM stage.shares)) AS ordinal
      FROM generate_series(1, {events}) AS n OFFSET 0) AS drawn
JOIN stage.shares USING (ordinal);

CREATE TABLE ours.servers (LIKE hand.servers);
CREATE TABLE ours.sites (LIKE hand.sites);
CREATE TABLE ours.events (LIKE hand.events);
INSERT INTO ours.servers SELECT * FROM hand.servers;
INSERT INTO ours.sites SELECT * FROM hand.sites;
INSERT INTO ours.events SELECT * FROM hand.events;

DO $$
DECLARE s text;
BEGIN
    FOREACH s IN ARRAY ARRAY['hand', 'ours'] LOOP
        EXECUTE format($f$
            ALTER TABLE %1$I.servers ADD PRIMARY KEY (id);
            ALTER TABLE %1$I.sites ADD PRIMARY KEY (id);
            ALTER TABLE %1$I.events ADD PRIMARY KEY (id);
            CREATE INDEX ON %1$I.servers (org_id);
            CREATE INDEX ON %1$I.sites (org_id);
            CREATE INDEX ON %1$I.sites (server_id);
            CREATE INDEX ON %1$I.events (org_id, at);
            CREATE INDEX ON %1$I.events (site_id);
            ALTER TABLE %1$I.sites ADD FOREIGN KEY (server_id) REFERENCES %1$I.servers;
            ALTER TABLE %1$I.events ADD FOREIGN KEY (site_id) REFERENCES %1$I.sites;
        $f$, s);
    END LOOP;
END $$;

SELECT tenancy.protect('ours.servers', audit => false);
SELECT tenancy.protect('ours.sites', audit => false);
SELECT tenancy.protect('ours.events', audit => false);

CREATE FUNCTION hand.current_org() RETURNS uuid LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN current_setting('app.current_org', true)::uuid;
END $$;
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['servers', 'sites', 'events'] LOOP
        -- The statistics that protect() gives its tables, so that plans do not differ for that reason.
        EXECUTE format('ALTER TABLE hand.%I ENABLE ROW LEVEL SECURITY, ALTER org_id SET STATISTICS 1000', t);
        EXECUTE format('CREATE POLICY a ON hand.%I TO hand_setting USING (org_id = current_setting(''app.current_org'')::uuid)', t);
        EXECUTE format('CREATE POLICY b ON hand.%I TO hand_subselect
                        USING (org_id = (SELECT current_setting(''app.current_org'')::uuid))', t);
        EXECUTE format('CREATE POLICY c ON hand.%I TO hand_plpgsql USING (org_id = hand.current_org())', t);
    END LOOP;
END $$;
