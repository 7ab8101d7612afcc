-- Machines with an environment each: what is production is held to more.
CREATE TABLE machines (
  id          int PRIMARY KEY,
  org_id      uuid NOT NULL,
  environment text NOT NULL,
  name        text NOT NULL
);
SELECT tenancy.protect('machines', environment_column => 'environment');
GRANT SELECT, INSERT, UPDATE, DELETE ON machines TO panel_app;
