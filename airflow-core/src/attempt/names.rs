//! Which variables and connections templates name: they are fetched before rendering, which cannot wait.

use std::collections::BTreeSet;

/// Names that templates look up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Keys of variables that are written out.
    pub(super) variables: BTreeSet<String>,
    /// Ids of connections that are written out.
    pub(super) connections: BTreeSet<String>,
    /// Whether a key is computed: any variable may be meant.
    pub(super) any_variable: bool,
    /// Whether an id is computed.
    pub(super) any_connection: bool,
}

impl Names {
    /// All that there are.
    pub(super) fn any() -> Self {
        Self { any_variable: true, any_connection: true, ..Self::default() }
    }

    /// Reads `var.value.NAME`, `var.json.NAME`, `conn.NAME`, `.get("NAME")` and `["NAME"]` of each text.
    pub(super) fn of<'t>(texts: impl IntoIterator<Item = &'t String>) -> Self {
        let mut names = Self::default();
        for text in texts.into_iter().filter(|text| text.contains("{{") || text.contains("{%")) {
            for rest in after_word(text, "var") {
                let access = member(rest).filter(|(name, _)| matches!(*name, "value" | "json"));
                match access.and_then(|(_, rest)| accessed(rest)) {
                    Some(key) => _ = names.variables.insert(key),
                    None => names.any_variable = true,
                }
            }
            for rest in after_word(text, "conn") {
                match accessed(rest) {
                    Some(id) => _ = names.connections.insert(id),
                    None => names.any_connection = true,
                }
            }
        }
        names
    }
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What follows each use of a word.
fn after_word<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    let alone = |(at, _): &(usize, &str)| {
        !text[..*at].ends_with(in_word) && !text[at + word.len()..].starts_with(in_word)
    };
    text.match_indices(word).filter(alone).map(|(at, _)| &text[at + word.len()..]).collect()
}

/// `.name` and what follows.
fn member(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start().strip_prefix('.')?.trim_start();
    let end = text.find(|c| !in_word(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The name in `.name`, `["name"]` or `.get("name")`; `None` if it is computed.
fn accessed(text: &str) -> Option<String> {
    if let Some(inside) = text.trim_start().strip_prefix('[') {
        return literal(inside, ']');
    }
    match member(text)? {
        ("get", rest) if rest.trim_start().starts_with('(') => {
            let inside = rest.trim_start().strip_prefix('(')?;
            literal(inside, ')').or_else(|| literal(inside, ','))
        }
        (name, _) => Some(name.to_owned()),
    }
}

/// A quoted text without escapes that `end` follows.
fn literal(text: &str, end: char) -> Option<String> {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (inside, rest) = text[1..].split_once(quote)?;
    (!inside.contains('\\') && rest.trim_start().starts_with(end)).then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (Vec<String>, bool, Vec<String>, bool) {
        let names = Names::of([&text.to_owned()]);
        let list = |set: BTreeSet<String>| set.into_iter().collect();
        (list(names.variables), names.any_variable, list(names.connections), names.any_connection)
    }

    #[test]
    fn names_that_are_written_out_are_found() {
        let text = "{{ var.value.a }}{{ var . json.b.c }}{{ var.value.get('d e', 'x') }}{{ var.json['f'] }}\
                    {{ conn.db.host }}{{ conn['api'].port }}{{ conn.get(\"old\").login }}{{ variable.x }}";
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = (owned(&["a", "b", "d e", "f"]), false, owned(&["api", "db", "old"]), false);
        assert_eq!(names(text), expected);
    }

    #[test]
    fn a_computed_name_means_any() {
        assert!(names("{{ var.value.get(params.key) }}").1);
        assert!(names("{{ var.value['a' ~ ds] }}").1);
        assert!(names("{% set v = var.value %}{{ v.x }}").1);
        assert!(names("{{ conn.get(params.id).host }}").3);
        assert_eq!(names("var.value.x outside of braces"), (vec![], false, vec![], false));
    }
}
