//! The operators that may use an index under row security once a superuser vouches for them, each with the reason; and
//! some that may not, with theirs.
//!
//! What is vetted is not the operator but what an index does with it. Our planner hook puts the organization first in
//! every scan, so the operator itself, which may raise (LIKE: a pattern that ends with its escape; containment and
//! full-text: the stack's end, driven by the row's own depth), meets rows of the current organization only. What meets
//! every organization's entries are the index's own comparison and consistency functions: they were read, in the sources
//! of PostgreSQL 15, for anything that raises or does something by what an entry holds.

/// A family of operators of an index access method; `extension` where it is not PostgreSQL's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub method: &'static str,
    pub name: &'static str,
    pub extension: Option<&'static str>,
}

#[derive(Debug)]
pub struct Vetted {
    /// As regoperator shows them.
    pub operators: &'static [&'static str],
    pub families: &'static [Family],
    pub reason: &'static str,
}

const fn btree(name: &'static str) -> Family {
    Family {
        method: "btree",
        name,
        extension: None,
    }
}

const fn gin(name: &'static str) -> Family {
    Family {
        method: "gin",
        name,
        extension: None,
    }
}

const TRIGRAMS: Family = Family {
    method: "gin",
    name: "gin_trgm_ops",
    extension: Some("pg_trgm"),
};

pub const VETTED: &[Vetted] = &[
    Vetted {
        operators: &["@@(tsvector,tsquery)"],
        families: &[gin("tsvector_ops")],
        reason: "The index combines which words are there. It raises only where the stack ends; a scan makes sure of the \
                 room that its query needs before it begins.",
    },
    Vetted {
        operators: &["@>(jsonb,jsonb)"],
        families: &[gin("jsonb_ops"), gin("jsonb_path_ops")],
        reason: "The index asks whether all keys or hashes are there, in a loop that raises nothing; the containment \
                 itself, which recurses as deep as the document, is looked at in rows of the organization only.",
    },
    Vetted {
        operators: &["?(jsonb,text)", "?|(jsonb,text[])", "?&(jsonb,text[])"],
        families: &[gin("jsonb_ops")],
        reason: "The index asks which keys are there, in a loop that raises nothing.",
    },
    Vetted {
        operators: &["@?(jsonb,jsonpath)", "@@(jsonb,jsonpath)"],
        families: &[gin("jsonb_ops"), gin("jsonb_path_ops")],
        reason: "The index combines which keys are there by a tree made of the path before the scan, raising nothing; the \
                 path itself runs on rows of the organization only.",
    },
    Vetted {
        operators: &[
            "&&(anyarray,anyarray)",
            "@>(anyarray,anyarray)",
            "<@(anyarray,anyarray)",
            "=(anyarray,anyarray)",
        ],
        families: &[gin("array_ops")],
        reason: "The index asks which elements are there, in a loop that raises nothing; only where the elements' own \
                 comparison is leakproof.",
    },
    Vetted {
        operators: &[
            "=(numeric,numeric)",
            "<(numeric,numeric)",
            "<=(numeric,numeric)",
            ">(numeric,numeric)",
            ">=(numeric,numeric)",
        ],
        families: &[btree("numeric_ops")],
        reason: "Comparing two numbers compares their digits: no arithmetic, nothing to overflow, nothing raised.",
    },
    Vetted {
        operators: &[
            "=(anyenum,anyenum)",
            "<(anyenum,anyenum)",
            "<=(anyenum,anyenum)",
            ">(anyenum,anyenum)",
            ">=(anyenum,anyenum)",
        ],
        families: &[btree("enum_ops")],
        reason: "Labels are compared by their numbers, or by the order kept of their type; a label that is stored has a \
                 place in it.",
    },
    Vetted {
        operators: &[
            "=(date,timestamp with time zone)",
            "<(date,timestamp with time zone)",
            "<=(date,timestamp with time zone)",
            ">(date,timestamp with time zone)",
            ">=(date,timestamp with time zone)",
            "=(timestamp without time zone,timestamp with time zone)",
            "<(timestamp without time zone,timestamp with time zone)",
            "<=(timestamp without time zone,timestamp with time zone)",
            ">(timestamp without time zone,timestamp with time zone)",
            ">=(timestamp without time zone,timestamp with time zone)",
        ],
        families: &[btree("datetime_ops")],
        reason: "The comparison takes a date beyond the range of timestamps for infinitely early or late and raises \
                 nothing.",
    },
    Vetted {
        operators: &[
            "~~(text,text)",
            "~~*(text,text)",
            "~(text,text)",
            "~*(text,text)",
        ],
        families: &[btree("text_pattern_ops"), btree("text_ops"), TRIGRAMS],
        reason: "A B-tree compares with the pattern's fixed beginning, by operators that are leakproof; trigrams are \
                 looked up one by one. The pattern itself, which may raise, is matched in rows of the organization only.",
    },
    Vetted {
        operators: &["~~(character,text)", "~(character,text)"],
        families: &[btree("bpchar_pattern_ops"), btree("bpchar_ops")],
        reason: "As LIKE on text.",
    },
];

/// Why a function, or an operator that no index answers, may stand in an index's expression.
pub const EXPRESSION: &str = "Immutable, in the expression of an index: computed when a row is written. A scan compares \
                              what is stored, and computes it in rows of the organization only.";

/// What people ask for and does not get it.
pub const REFUSED: &[(&str, &str)] = &[
    (
        "&&(anyrange,anyrange)",
        "GiST and SP-GiST decide by functions of the type that were not vetted, and compute distances and bounds.",
    ),
    (
        "@>(anyrange,anyrange)",
        "GiST and SP-GiST decide by functions of the type that were not vetted, and compute distances and bounds.",
    ),
    (
        "@>(anyrange,anyelement)",
        "GiST and SP-GiST decide by functions of the type that were not vetted, and compute distances and bounds.",
    ),
    (
        "=(record,record)",
        "Comparing rows compares columns of any type, and raises where a type has no comparison.",
    ),
    (
        "=(jsonb,jsonb)",
        "A B-tree compares whole documents, descending as deep as both go, and raises where the stack ends.",
    ),
];

pub fn find(operator: &str) -> Option<&'static Vetted> {
    VETTED.iter().find(|v| v.operators.contains(&operator))
}

pub fn refusal(operator: &str) -> Option<&'static str> {
    REFUSED
        .iter()
        .find(|(refused, _)| *refused == operator)
        .map(|(_, why)| *why)
}

/// The vetted operators that a family answers.
pub fn of_family(name: &str, method: &str) -> Vec<&'static str> {
    VETTED
        .iter()
        .filter(|v| {
            v.families
                .iter()
                .any(|f| f.name == name && f.method == method)
        })
        .flat_map(|v| v.operators.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_stands_once_on_the_list() {
        let mut all: Vec<&str> = VETTED.iter().flat_map(|v| v.operators).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn every_entry_has_a_family_and_a_reason() {
        for v in VETTED {
            assert!(!v.families.is_empty() && v.reason.len() > 10, "{v:?}");
        }
        assert_eq!(of_family("jsonb_path_ops", "gin").len(), 3);
        assert!(of_family("jsonb_path_ops", "btree").is_empty());
    }

    #[test]
    fn an_enumeration_is_no_range() {
        assert!(find("=(anyenum,anyenum)").is_some() && find("&&(anyrange,anyrange)").is_none());
        assert!(refusal("&&(anyrange,anyrange)").is_some());
    }
}
