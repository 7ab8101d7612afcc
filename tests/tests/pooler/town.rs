//! Many organizations in one database, and the logins that reach it through a pooler.

use pg_tenancy_tests::{Db, Pooler, Session, Uuid};

pub const ORGS: usize = 8;

/// An organization: `key` is its external key and how the text of its notes begins.
pub struct Place {
    pub id: Uuid,
    pub key: String,
    /// Owner, member, and the agency that belongs to all; any of them may write.
    pub people: [String; 3],
    pub note: Uuid,
    /// A login bound to its member.
    pub login: String,
}

pub struct Town {
    pub db: Db,
    pub places: Vec<Place>,
    /// The trusted applications, by their scope.
    pub app: String,
    pub session_app: String,
    /// A role that the applications may SET, which may read only.
    pub reader: String,
}

const NOTES: usize = 3;

impl Town {
    pub fn new() -> Town {
        let db = Db::fresh();
        let [app, session_app, reader] = ["app", "session_app", "reader"].map(|name| db.role(name));
        let mut dba = db.break_glass();
        dba.run(&format!(
            "CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), org_id uuid, writer int NOT NULL, body text NOT NULL);
             CREATE TABLE tags (note_id uuid REFERENCES notes ON DELETE CASCADE, org_id uuid, tag text);
             CREATE INDEX ON tags (note_id);
             SELECT tenancy.protect('notes'), tenancy.protect('tags');
             CREATE ROLE {app} LOGIN; CREATE ROLE {session_app} LOGIN; CREATE ROLE {reader};
             GRANT {reader} TO {app}, {session_app};
             GRANT SELECT ON notes TO {reader}; GRANT ALL ON notes, tags TO {app}, {session_app};
             SELECT tenancy.trust_application('{app}'), tenancy.trust_application('{session_app}', scope => 'session')"
        ));
        let mut user = |who: String| {
            dba.text(&format!(
                "SELECT tenancy.create_user('{who}@pool.test', '{who}')"
            ))
        };
        let agency = user("agency".into());
        let people: Vec<_> = (0..ORGS)
            .map(|n| (user(format!("owner{n}")), user(format!("member{n}"))))
            .collect();
        let places = people
            .into_iter()
            .enumerate()
            .map(|(n, (owner, member))| {
                let key = format!("town-{n}");
                let id = dba.text(&format!(
                    "SELECT tenancy.create_org('{key}', '{key}', owner => '{owner}', external_key => '{key}')"
                ));
                let login = db.role(&format!("member{n}"));
                dba.run(&format!(
                    "SELECT tenancy.add_member('{id}', '{member}', 'member'), tenancy.add_member('{id}', '{agency}', 'admin');
                     INSERT INTO notes (org_id, writer, body)
                         SELECT '{id}', 0, '{key} note ' || i FROM generate_series(1, {NOTES}) i;
                     CREATE ROLE {login} LOGIN; GRANT ALL ON notes, tags TO {login};
                     SELECT tenancy.bind_login('{login}', '{member}')"
                ));
                let note = dba.text(&format!("SELECT id FROM notes WHERE org_id = '{id}' LIMIT 1"));
                Place {
                    id: id.parse().expect("a uuid"),
                    key,
                    people: [owner, member, agency.clone()],
                    note: note.parse().expect("a uuid"),
                    login,
                }
            })
            .collect();
        Town {
            db,
            places,
            app,
            session_app,
            reader,
        }
    }

    pub fn pooler(&self, mode: &str, settings: &[&str]) -> Pooler {
        let mut users = vec![self.app.clone(), self.session_app.clone()];
        users.extend(self.places.iter().map(|p| p.login.clone()));
        Pooler::start(&self.db.cluster, mode, settings, &users)
    }

    /// How many notes each organization has of a writer, read past every rule; and that no row lies in another's.
    #[track_caller]
    pub fn check_notes(&self, written: &[(i32, Vec<i64>)]) {
        let mut dba: Session = self.db.break_glass();
        for place in &self.places {
            assert_eq!(
                dba.count(&format!(
                    "SELECT count(*) FROM notes WHERE (org_id = '{}') <> (body LIKE '{}%')",
                    place.id, place.key
                )),
                0,
                "rows of {} in another org, or the other way round",
                place.key
            );
        }
        assert_eq!(
            dba.count(
                "SELECT count(*) FROM tags t JOIN notes n ON n.id = t.note_id WHERE t.org_id <> n.org_id"
            ),
            0
        );
        for (writer, counts) in written {
            for (place, expected) in self.places.iter().zip(counts) {
                assert_eq!(
                    dba.count(&format!(
                        "SELECT count(*) FROM notes WHERE writer = {writer} AND org_id = '{}'",
                        place.id
                    )),
                    *expected,
                    "notes of writer {writer} in {}",
                    place.key
                );
            }
        }
    }
}
