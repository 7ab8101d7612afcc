# shellcheck shell=bash
chapter "8. Environments, AI proposals, billing and limits"

printf '\n'
load postgres governance.sql
prose "Ben owns Acme by now. He protects production: there an AI actor writes nothing, and what is deleted is deleted by the \
owner, in person, once he has confirmed that very row."
keep=yes answers "INSERT 0 3" "Ben turns production protection on, and there are machines" ben acme <<'SQL'
SELECT tenancy.set_production_protection(:'acme', true);
INSERT INTO machines VALUES (1, DEFAULT, 'production', 'web'), (2, DEFAULT, 'staging', 'trial'), (3, DEFAULT, 'staging', 'old');
SQL
refused 42501 "Ada, an admin, does not delete a production machine" ada acme <<'SQL'
DELETE FROM machines WHERE id = 1;
SQL
refused 42501 "nor does Ben before he has confirmed it" ben acme <<'SQL'
DELETE FROM machines WHERE id = 1;
SQL
refused 42501 "and renaming the environment is no way around it" ben acme <<'SQL'
UPDATE machines SET environment = 'staging' WHERE id = 1;
SQL
answers "DELETE 1" "confirmed in the same transaction, it goes" ben acme <<'SQL'
SELECT tenancy.confirm_production_delete('machines', '1', typed => '1');
DELETE FROM machines WHERE id = 1;
SQL
answers "DELETE 1" "outside production an admin deletes as ever" ada acme <<'SQL'
DELETE FROM machines WHERE id = 3;
SQL

prose "An AI actor that works for Mia reads what she reads. It writes what a person has approved, and nothing else."
refused 42501 "by itself it writes nothing" mia acme <<'SQL'
SET LOCAL app.actor_type = 'ai';
UPDATE machines SET name = 'trial-2' WHERE id = 2;
SQL
keep=yes answers "(1 row)" "so it proposes two changes" mia acme <<'SQL'
SET LOCAL app.actor_type = 'ai';
SELECT tenancy.submit_proposal(tenancy.propose('machines', 'update', 'Name it as the others are', key => '2', payload => '{"name": "trial-2"}'));
SELECT tenancy.submit_proposal(tenancy.propose('machines', 'delete', 'Nobody uses it', key => '3'));
SQL
refused 42501 "which it does not approve itself" mia acme <<'SQL'
SET LOCAL app.actor_type = 'ai';
SELECT tenancy.approve_proposal(id) FROM tenancy.proposals WHERE operation = 'update';
SQL
refused 42501 "Mia approves no deletion: her right to approve is a limited one" mia acme <<'SQL'
SELECT tenancy.approve_proposal(id) FROM tenancy.proposals WHERE operation = 'delete';
SQL
keep=yes answers "(1 row)" "Ben approves the one and rejects the other" ben acme <<'SQL'
SELECT tenancy.approve_proposal(id) FROM tenancy.proposals WHERE operation = 'update';
SELECT tenancy.reject_proposal(id, 'It is the only spare one.') FROM tenancy.proposals WHERE operation = 'delete';
SQL
keep=yes answers "(1 row)" "what was approved is executed" mia acme <<'SQL'
SET LOCAL app.actor_type = 'ai';
SELECT tenancy.execute_proposal(id) FROM tenancy.proposals WHERE operation = 'update';
SELECT name FROM machines WHERE id = 2;
SQL
same "just as it was proposed, once" \
  "$(scalar ben acme <<<"SELECT m.name, p.state FROM machines m, tenancy.proposals p WHERE m.id = 2 AND p.operation = 'update';")" "trial-2|completed"
refused 55000 "and what was rejected is not" mia acme <<'SQL'
SET LOCAL app.actor_type = 'ai';
SELECT tenancy.execute_proposal(id) FROM tenancy.proposals WHERE operation = 'delete';
SQL
same "the log names who proposed and who approved" \
  "$(scalar ben acme <<'SQL'
SELECT a.actor_type, u.name, b.name FROM tenancy.read_audit(object => 'public.machines', operation => 'UPDATE') a
JOIN tenancy.users u ON u.id = a.actor_id JOIN tenancy.users b ON b.id = a.approver_id;
SQL
  )" "ai|Mia|Ben"

prose "One bill or several, one boundary or another:"
answers "(1 row)" "who is billed apart is an organization apart" ben acme <<'SQL'
SELECT * FROM tenancy.recommend_isolation(separate_billing => true);
SQL
refused 22023 "a billing account holds a reference of the payment provider's, and no card" ben acme <<'SQL'
SELECT tenancy.create_billing_account('Acme Ltd', payment_method => '4242 4242 4242 4242');
SQL
keep=yes answers "(1 row)" "Ben makes one" ben acme <<'SQL'
SELECT tenancy.create_billing_account('Acme Ltd', payment_method => 'pm_1NxYzK2eZvKYlo2C') IS NOT NULL AS made;
SQL
answers "(0 rows)" "which Mia does not see" mia acme <<'SQL'
SELECT name, payment_method FROM tenancy.billing_accounts;
SQL
answers "(0 rows)" "nor does Gil, of another organization" gil globex <<'SQL'
SELECT name, payment_method FROM tenancy.billing_accounts;
SQL
keep=yes answers "(1 row)" "the panel, as a service, writes down what Acme uses" - acme <<'SQL'
SELECT tenancy.record_usage('requests', 1200, environment => 'production', at => '2026-11-03 10:00Z', idempotency_key => 'batch-17');
SELECT tenancy.record_usage('requests', 300, environment => 'staging', at => '2026-11-04 10:00Z', idempotency_key => 'batch-18');
SQL
same "the same batch twice counts once" \
  "$(scalar - acme <<<"SELECT tenancy.record_usage('requests', 1200, environment => 'production', at => '2026-11-03 10:00Z', idempotency_key => 'batch-17');")" "f"
answers "(2 rows)" "and Ben reads the report" ben acme <<'SQL'
SELECT metric, environment, quantity FROM tenancy.usage_report(NULL, '2026-11-01 00:00Z', '2026-12-01 00:00Z') ORDER BY environment;
SQL
refused 42501 "Mia does not" mia acme <<'SQL'
SELECT metric, quantity FROM tenancy.usage_report(NULL, '2026-11-01 00:00Z', '2026-12-01 00:00Z');
SQL
answers "(1 row)" "what is stored is measured, not reported" ben acme <<'SQL'
SELECT table_name, rows, bytes > 0 AS takes_room FROM tenancy.measured_usage WHERE table_name = 'machines'::regclass;
SQL
sql postgres -c "SELECT tenancy.set_quota(id, 'machines', 3) FROM tenancy.orgs WHERE slug = 'acme'" >/dev/null ||
  broken "the operator sets a limit"
held "the operator limits Acme to three machines"
refused 54000 "a fourth is refused" ben acme <<'SQL'
INSERT INTO machines VALUES (4, DEFAULT, 'staging', 'one too many');
SQL
answers "INSERT 0 1" "when one goes there is room again" ben acme <<'SQL'
DELETE FROM machines WHERE id = 3;
INSERT INTO machines VALUES (4, DEFAULT, 'staging', 'in its place');
SQL
refused 42501 "nobody in Acme raises the limit, the owner included" ben acme <<'SQL'
SELECT tenancy.set_quota(:'acme', 'machines', 1000);
SQL
