//! Statements made by chance: every form in which a session can say who it is, mixed with every form in which it can
//! read, in any letter case, quoting and nesting.

use pg_tenancy_tests::Random;

/// What the statements speak of.
pub struct Words {
    /// Ids and keys of organizations, one's own (more often) and others'.
    pub orgs: Vec<String>,
    pub users: Vec<String>,
    pub roles: Vec<String>,
    /// Calls that prove who one is, and such as do not.
    pub tokens: Vec<String>,
}

pub struct Grammar<'a> {
    pub random: Random,
    pub words: &'a Words,
    /// For names and quotes that are used once.
    pub serial: usize,
}

impl Grammar<'_> {
    fn pick<'b>(&mut self, all: &[&'b str]) -> &'b str {
        self.random.one_of(all)
    }

    fn any(&mut self, all: &[String]) -> String {
        all[self.random.next(all.len())].clone()
    }

    fn tag(&mut self) -> String {
        self.serial += 1;
        format!("$q{}$", self.serial)
    }

    /// Keywords in any letter case, with anything between them that PostgreSQL reads over.
    fn kw(&mut self, words: &str) -> String {
        let mut text = String::new();
        for (n, word) in words.split(' ').enumerate() {
            if n > 0 {
                text += self.pick(&[
                    " ",
                    " ",
                    " ",
                    "\n",
                    "\t",
                    " /**/ ",
                    "/* a /* b */ c */",
                    " -- '\n",
                ]);
            }
            for letter in word.chars() {
                let upper = self.random.percent(50);
                text.push(if upper {
                    letter.to_ascii_uppercase()
                } else {
                    letter.to_ascii_lowercase()
                });
            }
        }
        text
    }

    /// A string constant.
    fn quoted(&mut self, text: &str) -> String {
        match self.random.next(6) {
            0 => {
                let tag = self.tag();
                format!("{tag}{text}{tag}")
            }
            1 if text.is_ascii() => {
                let coded: String = text.bytes().map(|b| format!("\\x{b:02x}")).collect();
                format!("E'{coded}'")
            }
            2 if text.is_ascii() => {
                let coded: String = text.bytes().map(|b| format!("\\{b:04x}")).collect();
                format!("U&'{coded}'")
            }
            _ => format!("'{}'", text.replace('\'', "''")),
        }
    }

    /// The same as an expression.
    fn expression(&mut self, text: &str) -> String {
        match self.random.next(8) {
            0 if text.len() > 1 && text.is_ascii() => {
                let (a, b) = text.split_at(text.len() / 2);
                format!("({} || {})", self.quoted(a), self.quoted(b))
            }
            1 => format!("(SELECT {})", self.quoted(text)),
            2 => format!("lower(upper({}))", self.quoted(text)),
            3 => format!(
                "reverse({})",
                self.quoted(&text.chars().rev().collect::<String>())
            ),
            4 => format!("coalesce(NULL, {}::text)", self.quoted(text)),
            _ => self.quoted(text),
        }
    }

    fn setting(&mut self) -> &'static str {
        match self.random.next(10) {
            0..6 => "app.current_org",
            6 | 7 => "app.current_user_id",
            8 => "app.actor_type",
            _ => self.pick(&[
                "role",
                "session_authorization",
                "row_security",
                "app.current_project",
            ]),
        }
    }

    /// The setting's name as an identifier.
    fn named(&mut self, setting: &str) -> String {
        let name = self.kw(setting);
        let quoted: Vec<String> = name.split('.').map(|part| format!("\"{part}\"")).collect();
        match self.random.next(5) {
            0 => format!("\"{name}\""),
            1 => quoted.join("."),
            _ => name,
        }
    }

    fn value(&mut self, setting: &str) -> String {
        if self.random.percent(8) {
            return self.pick(&["", "rubbish", "none", "default", "off"]).into();
        }
        let words = self.words;
        match setting {
            "app.current_user_id" => self.any(&words.users),
            "role" | "session_authorization" => self.any(&words.roles),
            "row_security" => "off".into(),
            "app.actor_type" => self.pick(&["human", "ai", "service"]).into(),
            _ => self.any(&words.orgs),
        }
    }

    /// An expression that changes a setting.
    pub fn set_config(&mut self) -> String {
        let setting = self.setting();
        let value = self.value(setting);
        let name = self.kw(setting);
        let name = self.expression(&name);
        let value = if self.random.percent(10) {
            "NULL".into()
        } else {
            self.expression(&value)
        };
        let local = self.pick(&["true", "false", "'t'::bool", "1 = 2", "NULL", "NOT true"]);
        let schema = self.pick(&["", "", "pg_catalog.", "\"pg_catalog\" ."]);
        format!(
            "{schema}{}({name}, {value}, {local})",
            self.kw("set_config")
        )
    }

    /// An expression of type text that tells of rows.
    pub fn reading(&mut self) -> String {
        let table = self.pick(&[
            "servers",
            "public.servers",
            "\"servers\"",
            "ONLY servers",
            "(TABLE servers) x",
            "loot",
        ]);
        match self.random.next(12) {
            0 | 1 => format!("(SELECT string_agg(name, ',') FROM {table})"),
            2 => format!("(SELECT max(name) FROM {table})"),
            3 => format!("(SELECT count(*)::text FROM {table})"),
            4 => "'effective ' || tenancy.current_org()::text".into(),
            5 => "(SELECT x::text FROM tenancy.whoami() x)".into(),
            6 => "query_to_xml('SELECT name FROM servers', true, false, '')::text".into(),
            7 => "table_to_xml('servers', true, false, '')::text".into(),
            8 => format!("cursor_to_xml('{}', 9, false, false, '')::text", self.cursor()),
            9 => self.call(),
            10 => "(SELECT string_agg(name, ',') FROM servers WHERE pg_catalog.length(name) > 0 AND id = ANY (SELECT id FROM servers))".into(),
            _ => "(SELECT string_agg(n, ',') FROM (SELECT name n FROM servers UNION ALL SELECT name FROM sites) s)".into(),
        }
    }

    fn cursor(&mut self) -> &'static str {
        self.pick(&["c1", "c2", "held"])
    }

    fn call(&mut self) -> String {
        let words = self.words;
        match self.random.next(8) {
            0 | 1 => format!("by_clause_{}()", self.random.next(3)),
            2 => "pg_temp.mine()".into(),
            3 => format!("say_and_read('{}')", self.any(&words.orgs)),
            4 => format!("read_held('{}')", self.cursor()),
            5 => "tenancy.org_if('server:read')::text".into(),
            6 => "as_definer()".into(),
            _ => "tenancy.current_user_id()::text".into(),
        }
    }

    /// A query that may change a setting and may read, in one of the places where an expression can stand.
    pub fn query(&mut self, depth: usize) -> String {
        match self.random.next(12) {
            0 => format!(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {}",
                self.part(depth)
            ),
            1 => {
                let (a, b) = (self.set_config(), self.reading());
                format!(
                    "UPDATE servers SET cpus = 1 + length(coalesce({a}, '')) % 2 RETURNING name, {b}"
                )
            }
            _ => self.part(depth),
        }
    }

    /// One that can stand inside another.
    fn part(&mut self, depth: usize) -> String {
        let (a, b) = match self.random.next(4) {
            0 => (self.reading(), self.set_config()),
            1 => (self.reading(), self.reading()),
            _ => (self.set_config(), self.reading()),
        };
        let inner = |g: &mut Self| {
            if depth > 0 {
                g.part(depth - 1)
            } else {
                format!("SELECT {}", g.reading())
            }
        };
        match self.random.next(16) {
            0..3 => format!("SELECT {a}, {b}"),
            3 => format!("SELECT {a} UNION ALL SELECT {b}"),
            4 => format!("WITH w AS MATERIALIZED (SELECT {a} v) SELECT v, {b} FROM w"),
            5 => format!(
                "WITH w AS NOT MATERIALIZED (SELECT {a} v) SELECT {b} FROM w WHERE v IS NOT NULL"
            ),
            6 => format!(
                "SELECT s.name, x FROM (SELECT {a} x OFFSET 0) w, LATERAL (SELECT name FROM servers WHERE w.x IS DISTINCT FROM name OFFSET 0) s"
            ),
            7 => format!("SELECT name FROM servers WHERE coalesce({a}, '') IS NOT NULL"),
            8 => format!("SELECT CASE WHEN {a} IS NULL THEN {b} ELSE {b} END"),
            9 => format!("SELECT name, {a} FROM servers ORDER BY coalesce({b}, ''), name"),
            10 => format!("VALUES ({a}), ({b})"),
            11 => format!(
                "SELECT count(*) FROM servers HAVING {a} IS NOT NULL OR true LIMIT length(coalesce({b}, ''))"
            ),
            12 => format!("SELECT x FROM unnest(ARRAY[{a}, {b}]) x"),
            13 | 14 => format!(
                "SELECT name FROM servers WHERE EXISTS ({}) OR {a} IS NULL",
                inner(self)
            ),
            _ => format!("SELECT ({a}), q.* FROM ({}) q", inner(self)),
        }
    }

    /// A statement that changes who one is, or the ways to see.
    pub fn change(&mut self) -> String {
        let words = self.words;
        let setting = self.setting();
        let value = self.value(setting);
        match self.random.next(22) {
            0..5 => {
                let scope = self.pick(&["set", "set local", "set session"]);
                let (set, name) = (self.kw(scope), self.named(setting));
                let to = self.pick(&[" = ", " TO ", "="]);
                format!("{set} {name}{to}{}", self.quoted(&value))
            }
            5 => {
                let (set, name) = (self.kw("set local"), self.named(setting));
                format!("{set} {name} TO {}", self.kw("default"))
            }
            6 => format!("{} {}", self.kw("reset"), self.named(setting)),
            7 => self.kw("reset all"),
            8 => {
                let what = self.pick(&["all", "plans", "temp", "sequences", "all"]);
                self.kw(&format!("discard {what}"))
            }
            9 => {
                let role = self.any(&words.roles);
                let how = self.pick(&["set role", "set local role", "set session role"]);
                format!("{} \"{role}\"", self.kw(how))
            }
            10 => {
                let how = self.pick(&[
                    "reset role",
                    "set role none",
                    "reset session authorization",
                    "set session authorization default",
                ]);
                self.kw(how)
            }
            11 => format!(
                "{} \"{}\"",
                self.kw("set session authorization"),
                self.any(&words.roles)
            ),
            12 => {
                let how = self.pick(&[
                    "set row_security = off",
                    "set local row_security to off",
                    "reset row_security",
                ]);
                self.kw(how)
            }
            13 => format!(
                "SET search_path = {}",
                self.pick(&[
                    "pg_temp, public, pg_catalog",
                    "public",
                    "tenancy, public",
                    "''"
                ])
            ),
            14 => {
                let (org, user) = (self.any(&words.orgs), self.any(&words.users));
                let seal = self.pick(&["", ", seal => true", ", seal => false"]);
                // A key is no uuid: the call then fails as it would for any.
                format!("SELECT tenancy.enter('{org}', '{user}'{seal})")
            }
            15 => format!("SELECT tenancy.enter('{}')", self.any(&words.orgs)),
            16 => format!(
                "SELECT {}",
                self.pick(&["tenancy.leave()", "tenancy.seal_context()"])
            ),
            17 => self.any(&words.tokens),
            18 => format!(
                "SET plan_cache_mode = {}",
                self.pick(&["force_generic_plan", "force_custom_plan", "auto"])
            ),
            _ => format!("SELECT {}", self.set_config()),
        }
    }

    /// The body of a block of plpgsql.
    fn body(&mut self, depth: usize) -> String {
        let mut body = String::new();
        for _ in 0..=self.random.next(3) {
            body += &match self.random.next(10) {
                0 | 1 => format!("t := {};", self.set_config()),
                2 => format!("PERFORM {};", self.set_config()),
                3 => {
                    let change = if depth > 0 {
                        self.statement(depth - 1)
                    } else {
                        self.change()
                    };
                    format!("EXECUTE {};", self.quoted(&change))
                }
                4 | 5 => format!("t := {}; RAISE NOTICE '%', t;", self.reading()),
                6 => format!(
                    "FOR t IN SELECT name FROM public.servers LOOP RAISE NOTICE '%', t; {} END LOOP;",
                    self.body_end()
                ),
                7 => format!("FETCH c INTO t; RAISE NOTICE '%', t; {}", self.body_end()),
                8 if depth > 0 => {
                    let (inner, raise) = (
                        self.body(depth - 1),
                        self.pick(&["RAISE division_by_zero;", ""]),
                    );
                    format!(
                        "BEGIN {inner} {raise} EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', {}; END;",
                        self.reading()
                    )
                }
                _ => self.body_end(),
            };
        }
        body
    }

    fn body_end(&mut self) -> String {
        match self.random.next(4) {
            0 => "COMMIT;".into(),
            1 => "ROLLBACK;".into(),
            _ => format!("t := {};", self.set_config()),
        }
    }

    pub fn statement(&mut self, depth: usize) -> String {
        let deeper = depth.saturating_sub(1);
        match self.random.next(26) {
            0..6 => self.change(),
            6..11 => self.query(depth),
            11..14 => {
                let (tag, cursor, body) = (self.tag(), self.cursor(), self.body(depth));
                let begin = self.kw("do");
                format!(
                    "{begin} {tag} DECLARE t text; c refcursor := '{cursor}'; BEGIN {body} END {tag}"
                )
            }
            14 => {
                let (name, query) = (self.pick(&["p1", "p2"]), self.part(deeper));
                format!("DEALLOCATE {name}; PREPARE {name} AS {query}")
            }
            15 => format!("{} {}", self.kw("execute"), self.pick(&["p1", "p2"])),
            16 => {
                let (cursor, query) = (self.cursor(), self.reading());
                let hold = if cursor == "held" { " WITH HOLD" } else { "" };
                let scroll = self.pick(&["", " SCROLL", " NO SCROLL"]);
                format!(
                    "DECLARE {cursor}{scroll} CURSOR{hold} FOR SELECT name FROM servers UNION ALL SELECT {query}"
                )
            }
            17 | 18 => {
                let how =
                    self.pick(&["fetch all from", "fetch 1 from", "fetch first from", "move"]);
                format!("{} {}", self.kw(how), self.cursor())
            }
            19 => self
                .pick(&["CLOSE ALL", "DEALLOCATE ALL", "CLOSE held"])
                .into(),
            20 => self
                .pick(&["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "SAVEPOINT s"])
                .into(),
            21 => self
                .pick(&[
                    "BEGIN",
                    "START TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    "BEGIN",
                    "COMMIT",
                    "ROLLBACK",
                    "COMMIT AND CHAIN",
                    "END",
                ])
                .into(),
            22 => {
                let (setting, reading) = (self.setting(), self.reading());
                let value = self.value(setting);
                let clause = self.named(setting);
                let tag = self.tag();
                format!(
                    "CREATE OR REPLACE FUNCTION pg_temp.mine() RETURNS text LANGUAGE plpgsql SET {clause} = {} AS {tag} BEGIN RETURN {reading}; END {tag}",
                    self.quoted(&value)
                )
            }
            23 => format!("SELECT {}", self.call()),
            24 => format!(
                "INSERT INTO loot SELECT name, id FROM servers WHERE {} IS NOT NULL",
                self.reading()
            ),
            _ => format!(
                "ALTER ROLE CURRENT_USER SET {} = '{}'",
                "app.current_org",
                self.value("app.current_org")
            ),
        }
    }

    /// What a client sends at once: mostly one statement, now and then several.
    pub fn message(&mut self) -> String {
        let mut text = self.statement(2);
        for _ in 0..[0, 0, 0, 0, 1, 1, 2, 3][self.random.next(8)] {
            let next = if self.random.percent(30) {
                self.pick(&[
                    "COMMIT",
                    "ROLLBACK",
                    "BEGIN",
                    "COMMIT AND CHAIN",
                    "COMMIT; BEGIN",
                ])
                .into()
            } else {
                self.statement(1)
            };
            text = format!("{text}; {next}");
        }
        text
    }
}
