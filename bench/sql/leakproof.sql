-- Documents with an index for each predicate whose operator PostgreSQL does not call leakproof. Each predicate finds one
-- document in 2,000, of all organizations. Twice, as the reads have it.

CREATE TABLE hand.documents (
    id bigint PRIMARY KEY, org_id uuid NOT NULL, title text NOT NULL, words tsvector NOT NULL, detail jsonb NOT NULL,
    price numeric(10, 2) NOT NULL);
INSERT INTO hand.documents
SELECT n, org_id, 'document-' || lpad((n % 2000)::text, 4, '0') || '-' || n,
       to_tsvector('simple', 'every document mentions word' || n % 2000 || ' and word' || 2000 + n % 3000),
       jsonb_build_object('key', n % 2000, 'state', 'open'), (n % 2000) / 100.0
FROM (SELECT n, width_bucket(random(), (SELECT array_agg(lower ORDER BY ordinal) FROM stage.shares)) AS ordinal
      FROM generate_series(1, {documents}) AS n OFFSET 0) AS drawn
JOIN stage.shares USING (ordinal);
CREATE TABLE ours.documents (LIKE hand.documents, PRIMARY KEY (id));
INSERT INTO ours.documents SELECT * FROM hand.documents;

DO $$
DECLARE s text;
BEGIN
    FOREACH s IN ARRAY ARRAY['hand', 'ours'] LOOP
        EXECUTE format($f$
            CREATE INDEX ON %1$I.documents (org_id);
            CREATE INDEX ON %1$I.documents USING gin (words) WITH (fastupdate = off);
            CREATE INDEX ON %1$I.documents (title text_pattern_ops);
            CREATE INDEX ON %1$I.documents USING gin (detail jsonb_path_ops) WITH (fastupdate = off);
            CREATE INDEX ON %1$I.documents (price);
        $f$, s);
    END LOOP;
END $$;
SELECT tenancy.protect('ours.documents', audit => false);
ALTER TABLE hand.documents ENABLE ROW LEVEL SECURITY, ALTER org_id SET STATISTICS 1000;
CREATE POLICY a ON hand.documents TO hand_setting USING (org_id = current_setting('app.current_org')::uuid);
