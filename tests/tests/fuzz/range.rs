//! The databases that the fuzzer shoots at: three organizations, and a session of one kind or another.

use pg_tenancy_tests::World;
use pg_tenancy_tests::token::Issuer;
use serde_json::json;

use crate::grammar::Words;

/// How the session got its rights.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// A login bound to a user of two organizations, and to one of one.
    Agency,
    Member,
    /// Bound to nobody.
    Nobody,
    /// A login that needs a token, with one for the user, and with one for the user in one organization.
    Token,
    TokenForOrg,
    /// A trusted application, which could go anywhere, under a seal.
    Sealed,
}

pub struct Range {
    pub world: World,
    pub kind: Kind,
    pub login: String,
    pub words: Words,
    /// Ids of the organizations that may be in effect, and how the names of their rows begin.
    pub allowed: Vec<(String, &'static str)>,
    /// What no answer may hold.
    pub forbidden: Vec<String>,
    pub token: String,
    me: String,
}

const FUNCTIONS: &str = "
    CREATE FUNCTION say_and_read(org text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE t text; BEGIN
        t := set_config('app.current_org', org, true); RETURN (SELECT string_agg(name, ',') FROM public.servers); END $$;
    CREATE FUNCTION read_held(c refcursor) RETURNS text LANGUAGE plpgsql AS $$ DECLARE t text; BEGIN FETCH c INTO t; RETURN t; END $$;
    CREATE FUNCTION as_definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT string_agg(name, '','') FROM public.servers';";

impl Range {
    pub fn new(kind: Kind) -> Range {
        let world = World::new();
        let mut dba = world.break_glass();
        let third = dba.text("SELECT tenancy.create_org('Initech', 'initech', owner => tenancy.create_user('i@initech.test', 'I', external_key => 'key-of-initech'), external_key => 'customer-9')");
        dba.run(&format!(
            "INSERT INTO servers (id, org_id, name) SELECT 200 + i, '{third}', 'initech-server-' || i FROM generate_series(1, 3) i;
             INSERT INTO sites (id, org_id, name) SELECT 200 + i, '{third}', 'initech-site-' || i FROM generate_series(1, 3) i;
             {FUNCTIONS}
             ALTER FUNCTION as_definer() OWNER TO {};",
            world.table_owner()
        ));
        let orgs = [
            world.acme.id.to_string(),
            world.globex.id.to_string(),
            third,
        ];
        let keys = ["customer-7", "customer-8", "customer-9"];
        for (n, key) in keys.iter().enumerate() {
            dba.run(&format!(
                "CREATE FUNCTION by_clause_{n}() RETURNS text LANGUAGE plpgsql SET app.current_org = '{key}'
                     AS $$ BEGIN RETURN (SELECT string_agg(name, ',') FROM public.servers); END $$"
            ));
        }
        let role = |name: &str| world.db.role(name);
        let agency = world.user("agency").to_string();
        let login = match kind {
            Kind::Agency => role("agency"),
            Kind::Member => role("acme.member"),
            Kind::Nobody => role("nobody"),
            Kind::Token | Kind::TokenForOrg => role("gate"),
            Kind::Sealed => role("app"),
        };
        if matches!(kind, Kind::Token | Kind::TokenForOrg) {
            dba.run(&format!("CREATE ROLE {login} LOGIN; SELECT tenancy.require_token('{login}', scope => 'session')"));
        }
        let (other, bypass) = (role("other"), role("bypass"));
        dba.run(&format!("CREATE ROLE {other}; GRANT {other} TO {login} "));
        let mut roles = vec![
            login.clone(),
            other,
            role("acme.owner"),
            role("session_app"),
            "postgres".into(),
            "none".into(),
        ];
        let issuer = Issuer::new("k1", "HS256");
        let stranger = Issuer::new("k2", "HS256");
        dba.run(&issuer.add());
        let claims = |org: Option<&str>| {
            let mut claims = json!({ "sub": agency });
            if let Some(org) = org {
                claims["org"] = json!(org);
            }
            claims
        };
        let token = issuer.token(claims((kind == Kind::TokenForOrg).then_some("customer-7")));
        let mut tokens: Vec<String> = [
            stranger.token(claims(None)),
            stranger.token(json!({ "sub": world.user("acme.owner") })),
            "a.b.c".into(),
            String::new(),
        ]
        .map(|token| format!("SELECT tenancy.authenticate('{token}')"))
        .into();
        match kind {
            Kind::Token | Kind::TokenForOrg => {
                tokens.extend(["transaction", "session", "session"].map(|scope| {
                    format!("SELECT tenancy.authenticate('{token}', scope => '{scope}')")
                }));
            }
            // It may become a role that passes row security; the seal is against that, too.
            Kind::Sealed => {
                dba.run(&format!("CREATE ROLE {bypass} BYPASSRLS; GRANT {bypass} TO {login}; GRANT ALL ON servers, sites TO {bypass}"));
                roles.extend([bypass.clone(), bypass]);
                tokens.push(format!("SELECT tenancy.authenticate('{token}')"));
            }
            _ => {}
        }
        let names = ["acme-s", "globex-s", "initech-s"];
        let may: &[usize] = match kind {
            Kind::Agency | Kind::Token => &[0, 1],
            Kind::Member | Kind::TokenForOrg | Kind::Sealed => &[0],
            Kind::Nobody => &[],
        };
        let forbidden = (0..3).filter(|n| !may.contains(n));
        let users = ["agency", "acme.owner", "globex.owner", "acme.member"];
        let mut user_words: Vec<String> = users
            .iter()
            .map(|who| world.user(who).to_string())
            .collect();
        user_words
            .extend(["key-of-agency", "key-of-initech", "key-of-globex.owner"].map(String::from));
        let all = (0..3).chain(may.iter().copied()).chain(may.iter().copied());
        let spoken = all
            .flat_map(|n| [orgs[n].clone(), keys[n].into()])
            .collect();
        let me = match kind {
            Kind::Member => world.user("acme.member").to_string(),
            _ => agency,
        };
        Range {
            allowed: may.iter().map(|n| (orgs[*n].clone(), names[*n])).collect(),
            forbidden: forbidden
                .flat_map(|n| [names[n].to_string(), format!("effective {}", orgs[n])])
                .collect(),
            words: Words {
                orgs: spoken,
                users: user_words,
                roles,
                tokens,
            },
            kind,
            login,
            token,
            me,
            world,
        }
    }

    pub fn needs_token(&self) -> bool {
        matches!(self.kind, Kind::Token | Kind::TokenForOrg)
    }

    /// The one user that the session may be.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The rows of the organizations that the session may not see, read past every rule.
    pub fn contents(&self) -> Vec<String> {
        let mut all = vec![];
        for table in ["servers", "sites"] {
            let names = self.forbidden.join("|");
            all.extend(self.world.break_glass().column(&format!(
                "SELECT t::text FROM {table} t WHERE name ~ '^({names})' OR org_id::text || split_part(name, '-', 1) NOT IN
                     (SELECT id::text || slug FROM tenancy.orgs) ORDER BY 1"
            )));
        }
        all
    }
}
