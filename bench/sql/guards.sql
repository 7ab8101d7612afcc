-- Parents for foreign keys: a plain copy of the sites (those of schema ours are protected, of schema hand have policies).

CREATE SCHEMA w;
GRANT USAGE ON SCHEMA w TO PUBLIC;
CREATE TABLE w.sites (LIKE hand.sites);
INSERT INTO w.sites SELECT * FROM hand.sites;
ALTER TABLE w.sites ADD PRIMARY KEY (id), ADD UNIQUE (org_id, id);
ANALYZE w.sites;

-- What is written by hand where the composite key is not.
CREATE FUNCTION w.same_org() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.parent_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM w.sites WHERE id = NEW.parent_id AND org_id = NEW.org_id) THEN
        RAISE foreign_key_violation USING MESSAGE = 'parent of another organization';
    END IF;
    RETURN NEW;
END $$;
