//! Turns a statement in the common words into what one database wants.
//!
//! The common words are those that SQLite and PostgreSQL share, with values as `?1`, `?2`, names that need it in double
//! quotes, and a few additions:
//!
//! - `ROWS(?1, name TYPE, ..) j` is a table made of a value that holds a JSON array of arrays ([`Rows`]); it has the
//!   columns that are named and `ord`, which counts them. Types: `NAME` (a text of at most 250 characters), `TEXT`,
//!   `INT`, `FLAG`, `TIME`, `ID`.
//! - `UPDATE table SET .. FROM ROWS(..) j WHERE ..` works on MySQL as well, if no column of `j` has the name of one that
//!   is set.
//!
//! - `CLOCK()` is the time of the statement, `AFTER_MICROS(x)` so many microseconds later.
//!
//! Row locks (`FOR UPDATE`) and hints to the planner of SQLite (`CROSS JOIN`, `INDEXED BY`) vanish where they mean
//! nothing. Each text is turned once; the result is kept.
//!
//! [`Rows`]: super::json::Rows

use std::collections::HashMap;
#[cfg(feature = "mysql")]
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

/// How many turned texts are kept; there are about a hundred, and a few for each combination of filters.
const MOST_KEPT: usize = 1_000;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    Mysql,
}

impl Kind {
    /// The name of the kind of store.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres => "postgres",
            #[cfg(feature = "mysql")]
            Self::Mysql => "mysql",
        }
    }

    /// Whether times and ids are types of their own there; else they are numbers and bytes.
    pub(in crate::store) fn has_types(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => false,
            #[cfg(feature = "postgres")]
            Self::Postgres => true,
            #[cfg(feature = "mysql")]
            Self::Mysql => true,
        }
    }

    /// Whether several statements go there in one message.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(in crate::store) fn sends_batches(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => false,
            #[cfg(feature = "postgres")]
            Self::Postgres => false,
            #[cfg(feature = "mysql")]
            Self::Mysql => true,
        }
    }

    /// Whether lists in JSON are made by it, whole and in order.
    #[cfg(feature = "mysql")]
    pub(in crate::store) fn has_json_lists(self) -> bool {
        self != Self::Mysql
    }

    /// Whether `INSERT .. RETURNING` is known there.
    pub(in crate::store) fn has_returning(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => true,
            #[cfg(feature = "postgres")]
            Self::Postgres => true,
            #[cfg(feature = "mysql")]
            Self::Mysql => false,
        }
    }
}

/// A text for one database.
#[derive(Debug)]
pub(in crate::store) struct Translated {
    pub(super) sql: Arc<str>,
    /// Which value stands at each place, if places have no numbers.
    places: Option<Vec<usize>>,
}

impl Translated {
    /// The text.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn sql(&self) -> &str {
        &self.sql
    }

    /// Whether each value is named by its number, and bound once.
    pub(super) fn is_numbered(&self) -> bool {
        self.places.is_none()
    }

    /// The index of the value for each place.
    pub(super) fn order(&self, values: usize) -> impl Iterator<Item = usize> {
        let by_place = self.places.iter().flatten().copied();
        let in_order = 0..if self.places.is_none() { values } else { 0 };
        by_place.chain(in_order)
    }
}

/// The words of one database, and the texts that were turned into them.
#[derive(Debug)]
pub(in crate::store) struct Dialect {
    kind: Kind,
    /// What stands before the name of a table.
    prefix: String,
    known: RwLock<HashMap<String, Arc<Translated>>>,
}

impl Dialect {
    /// The words of SQLite.
    #[cfg(feature = "sqlite")]
    pub(in crate::store) fn sqlite() -> &'static Self {
        static SQLITE: std::sync::LazyLock<Dialect> =
            std::sync::LazyLock::new(|| Dialect::new(Kind::Sqlite, ""));
        &SQLITE
    }

    /// The words of a database in which `prefix` stands before the names of our tables.
    pub(in crate::store) fn new(kind: Kind, prefix: impl Into<String>) -> Self {
        Self { kind, prefix: prefix.into(), known: RwLock::default() }
    }

    pub(in crate::store) fn kind(&self) -> Kind {
        self.kind
    }

    /// Turns a text, or finds it turned.
    pub(in crate::store) fn translate(&self, text: &str) -> Arc<Translated> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Arc::clone(known);
        }
        let (sql, places) = translate(self.kind, &self.prefix, text);
        let translated = Arc::new(Translated { sql: sql.into(), places });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST_KEPT {
            known.insert(text.to_owned(), Arc::clone(&translated));
        }
        translated
    }
}

fn translate(kind: Kind, prefix: &str, text: &str) -> (String, Option<Vec<usize>>) {
    match kind {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => {
            let text = clocked(text, "CAST(unixepoch('subsec') * 1000000 AS INTEGER)", |later| {
                format!("(CAST(unixepoch('subsec') * 1000000 AS INTEGER) + {later})")
            });
            let text = expand_rows(&text, sqlite_rows);
            (prefixed(&without(&text, &[" FOR NO KEY UPDATE", " FOR UPDATE"], ""), prefix), None)
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let text = clocked(text, "statement_timestamp()", |later| {
                format!("(statement_timestamp() + {later} * INTERVAL '1 microsecond')")
            });
            let text = expand_rows(&arrays(&text), postgres_rows);
            let text = without_index_hints(&text.replace("CROSS JOIN", "JOIN"));
            let text = without(&text, &["lower(hex(attempt_id))"], "attempt_id");
            let text =
                text.replace("json_group_array(", "json_agg(").replace("json_array(", "json_build_array(");
            (numbered(&prefixed(&text, prefix)), None)
        }
        #[cfg(feature = "mysql")]
        Kind::Mysql => {
            let text = clocked(text, "UTC_TIMESTAMP(6)", |later| {
                format!("(UTC_TIMESTAMP(6) + INTERVAL {later} MICROSECOND)")
            });
            let text = expand_rows(&updating_join(&text), mysql_rows);
            let text = without(&text, &["FOR NO KEY UPDATE"], "FOR UPDATE");
            let text = upserting(&without_index_hints(&text.replace("CROSS JOIN", "STRAIGHT_JOIN")));
            let (text, places) = in_places(&text.replace('"', "`"));
            (prefixed(&text, prefix), Some(places))
        }
    }
}

/// Replaces the words of time.
fn clocked(text: &str, now: &str, later: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("AFTER_MICROS(") {
        let (micros, tail) = tail.split_once(')').unwrap_or((tail, ""));
        out.push_str(head);
        out.push_str(&later(micros));
        rest = tail;
    }
    out.push_str(rest);
    out.replace("CLOCK()", now)
}

/// The end of the bracket that opens at the start of `text`.
fn closing(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return at,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Replaces each `ROWS(..)` by what `make` writes of its value and columns.
fn expand_rows(text: &str, make: fn(&str, &[(&str, &str)]) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("ROWS(") {
        let open = at + "ROWS".len();
        let close = open + closing(&rest[open..]);
        let mut parts = rest[open + 1..close].split(',').map(str::trim);
        let value = parts.next().unwrap_or_default();
        let columns: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once(' ')).collect();
        out.push_str(&rest[..at]);
        out.push_str(&make(value, &columns));
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

/// Turns ` IN (SELECT j.x FROM ROWS(..) j)` into a comparison with an array: PostgreSQL takes such a list for a short one, and
/// would go through all of it for each row.
#[cfg(feature = "postgres")]
fn arrays(text: &str) -> String {
    const BEGIN: &str = " IN (SELECT ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let open = at + " IN ".len();
        let close = open + closing(&rest[open..]);
        let inner = &rest[open + 1..close];
        let is_list = !rest[..at].ends_with("NOT") && is_one_column_of_rows(inner);
        out.push_str(&rest[..at]);
        out.push_str(&if is_list { format!(" = ANY (ARRAY({inner}))") } else { format!(" IN ({inner})") });
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

/// Whether this is `SELECT j.x FROM ROWS(..) j`, and nothing more.
#[cfg(feature = "postgres")]
fn is_one_column_of_rows(select: &str) -> bool {
    let Some((column, rest)) = select.strip_prefix("SELECT ").and_then(|rest| rest.split_once(" FROM ROWS("))
    else {
        return false;
    };
    let alias = rest[closing(&format!("({rest}"))..].trim();
    column.split_once('.').is_some_and(|(of, name)| of == alias && !name.contains([' ', ',', '(']))
}

fn listed<'a>(
    columns: &[(&'a str, &'a str)],
    mut write: impl FnMut(usize, &'a str, &'a str) -> String,
) -> String {
    let parts: Vec<String> =
        columns.iter().enumerate().map(|(at, (name, kind))| write(at, name, kind.trim())).collect();
    parts.join(", ")
}

#[cfg(feature = "sqlite")]
fn sqlite_rows(value: &str, columns: &[(&str, &str)]) -> String {
    let columns = listed(columns, |at, name, kind| match kind {
        "ID" => format!("unhex(value ->> {at}) AS {name}"),
        _ => format!("value ->> {at} AS {name}"),
    });
    format!("(SELECT key AS ord, {columns} FROM json_each({value}))")
}

#[cfg(feature = "postgres")]
fn postgres_rows(value: &str, columns: &[(&str, &str)]) -> String {
    let columns = listed(columns, |at, name, kind| match kind {
        "INT" => format!("(value ->> {at})::bigint AS {name}"),
        "FLAG" => format!("(value ->> {at}) = '1' AS {name}"),
        "TIME" => format!("(value ->> {at})::timestamp AT TIME ZONE 'UTC' AS {name}"),
        "ID" => format!("(value ->> {at})::uuid AS {name}"),
        _ => format!("value ->> {at} AS {name}"),
    });
    format!(
        // Every element is an array. That it is asked for makes the planner expect one row instead of a hundred, so that it
        // begins with the list and finds the rows of tables by their keys, also of tables that it takes for empty.
        "(SELECT ord, {columns} FROM jsonb_array_elements(CAST({value} AS text)::jsonb) WITH ORDINALITY e(value, ord) \
         WHERE jsonb_typeof(value) = 'array')"
    )
}

#[cfg(feature = "mysql")]
fn mysql_rows(value: &str, columns: &[(&str, &str)]) -> String {
    let table = listed(columns, |at, name, kind| {
        let kind = match kind {
            "INT" => "BIGINT",
            "FLAG" => "TINYINT",
            "TIME" => "DATETIME(6)",
            "ID" => "CHAR(32) CHARACTER SET latin1",
            "NAME" => "VARCHAR(250) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            _ => "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        };
        format!("{name} {kind} PATH '$[{at}]'")
    });
    let table = format!("JSON_TABLE({value}, '$[*]' COLUMNS (ord FOR ORDINALITY, {table}))");
    if columns.iter().all(|(_, kind)| kind.trim() != "ID") {
        return table;
    }
    let columns = listed(columns, |_, name, kind| match kind {
        "ID" => format!("UNHEX({name}) AS {name}"),
        _ => name.to_owned(),
    });
    format!("(SELECT ord, {columns} FROM {table} e)")
}

fn without(text: &str, parts: &[&str], instead: &str) -> String {
    parts.iter().fold(text.to_owned(), |text, part| text.replace(part, instead))
}

/// Takes out `INDEXED BY name`.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn without_index_hints(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("INDEXED BY ") {
        out.push_str(&rest[..at]);
        let after = &rest[at + "INDEXED BY ".len()..];
        rest = &after[word(after).len()..];
    }
    out.push_str(rest);
    out
}

/// The word at the start of `text`.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Writes `prefix` before the name of each table and function of ours.
fn prefixed(text: &str, prefix: &str) -> String {
    if prefix.is_empty() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let starts = ["af_", "airflow_schema"].iter().any(|name| text[at..].starts_with(name));
        if starts && !before.is_ascii_alphanumeric() && !['_', '.', '"', '`'].contains(&before) {
            out.push_str(prefix);
        }
        out.push(c);
        before = c;
    }
    out
}

/// `?1` as `$1`.
#[cfg(feature = "postgres")]
fn numbered(text: &str) -> String {
    text.replace('?', "$")
}

/// `?1` as `?`, and which value stands at each place.
#[cfg(feature = "mysql")]
fn in_places(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut places = Vec::new();
    let mut parts = text.split('?');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let number = word(part);
        places.push(number.parse().map_or(0, |number: usize| number.saturating_sub(1)));
        out.push('?');
        out.push_str(&part[number.len()..]);
    }
    (out, places)
}

/// `UPDATE t SET .. FROM ROWS(..) j WHERE ..` as the update of a join, `j` first.
#[cfg(feature = "mysql")]
fn updating_join(text: &str) -> String {
    let parts = || {
        let rest = text.trim_start().strip_prefix("UPDATE ")?;
        let table = word(rest);
        let (sets, from) = rest[table.len()..].trim_start().strip_prefix("SET")?.split_once("FROM ROWS")?;
        let (value, after) = from.split_at(closing(from) + 1);
        let (alias, condition) = after.split_once("WHERE")?;
        Some(format!("UPDATE ROWS{value}{alias} STRAIGHT_JOIN {table} ON {condition} SET {sets}"))
    };
    parts().unwrap_or_else(|| text.to_owned())
}

/// `ON CONFLICT (key) DO ..` in the words of MySQL.
#[cfg(feature = "mysql")]
fn upserting(text: &str) -> String {
    let Some((head, tail)) = text.split_once("ON CONFLICT") else { return text.to_owned() };
    let Some((key, action)) = tail.trim_start().strip_prefix('(').and_then(|tail| tail.split_once(')'))
    else {
        return text.to_owned();
    };
    let table = head.split("INSERT INTO ").nth(1).map(word).unwrap_or_default();
    let mut out = format!("{head}ON DUPLICATE KEY UPDATE");
    if action.trim_start().starts_with("DO NOTHING") {
        let column = word(key);
        write!(out, " {column} = {table}.{column}").expect("writing to a string never fails");
        return out;
    }
    let sets = action.trim_start().strip_prefix("DO UPDATE SET").unwrap_or(action);
    let mut rest = sets;
    while let Some(at) = rest.find("excluded.") {
        let after = &rest[at + "excluded.".len()..];
        let name = word(after);
        write!(out, "{}VALUES({name})", &rest[..at]).expect("writing to a string never fails");
        rest = &after[name.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    /// Goal: lists of one column are compared with as arrays, and nothing else is touched.
    #[test]
    fn lists_of_one_column_become_arrays() {
        let list = "(SELECT j.id FROM ROWS(?2, id NAME) j)";
        assert_eq!(
            arrays(&format!("run = ?1 AND task IN {list} AND x")),
            format!("run = ?1 AND task = ANY (ARRAY{list}) AND x")
        );
        for other in [
            format!("task NOT IN {list}"),
            "(a, b) IN (SELECT j.a, j.b FROM ROWS(?1, a INT, b INT) j)".to_owned(),
            "a IN (SELECT j.a FROM ROWS(?1, a INT) j WHERE j.a > 1)".to_owned(),
            "a IN (SELECT t.a FROM other t WHERE t.b = ?1)".to_owned(),
        ] {
            assert_eq!(arrays(&other), other);
        }
    }
}
