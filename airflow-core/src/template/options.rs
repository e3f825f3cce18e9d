//! What a dag says of its templates: functions, filters, undefined names, native values, folders with further templates.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::check::check_with;
use super::error::TemplateError;
use super::render::{Renderer, Undefined};

type CallMacro = dyn Fn(&[Json]) -> Result<Json, String> + Send + Sync;
type CallFilter = dyn Fn(&Json, &[Json]) -> Result<Json, String> + Send + Sync;

/// What a name of a dag's own stands for in its templates.
#[derive(Clone)]
enum Macro {
    Value(Json),
    Function(Arc<CallMacro>),
}

/// How the templates of a dag are rendered. Set by the options of `DagDef` that have Airflow's names.
#[derive(Clone, Default)]
pub struct TemplateOptions {
    pub(crate) native: bool,
    pub(crate) undefined: Undefined,
    pub(crate) searchpath: Vec<PathBuf>,
    macros: Vec<(String, Macro)>,
    filters: Vec<(String, Arc<CallFilter>)>,
}

/// Functions are shown by their names.
impl fmt::Debug for TemplateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity())
    }
}

impl TemplateOptions {
    pub(crate) fn add_value(&mut self, name: String, value: Json) {
        self.macros.push((name, Macro::Value(value)));
    }

    pub(crate) fn add_function<F>(&mut self, name: String, function: F)
    where
        F: Fn(&[Json]) -> Result<Json, String> + Send + Sync + 'static,
    {
        self.macros.push((name, Macro::Function(Arc::new(function))));
    }

    pub(crate) fn add_filter<F>(&mut self, name: String, filter: F)
    where
        F: Fn(&Json, &[Json]) -> Result<Json, String> + Send + Sync + 'static,
    {
        self.filters.push((name, Arc::new(filter)));
    }

    /// Checks a template as [`check`](super::check) does, knowing the names of the dag. Where undefined names print as
    /// nothing, unknown ones are none of its business.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn check(&self, template: &str) -> Result<(), TemplateError> {
        let macros: Vec<&str> = self.macros.iter().map(|(name, _)| name.as_str()).collect();
        let filters: Vec<&str> = self.filters.iter().map(|(name, _)| name.as_str()).collect();
        check_with(template, &macros, &filters, self.undefined)
    }

    /// All that is data, and the names of what is code: for the version of the dag. Empty if nothing was said.
    pub(crate) fn identity(&self) -> String {
        let mut parts = Vec::new();
        if self.native {
            parts.push("native".to_owned());
        }
        if self.undefined != Undefined::default() {
            parts.push(format!("{:?}", self.undefined));
        }
        parts.extend(self.searchpath.iter().map(|folder| format!("path {}", folder.display())));
        parts.extend(self.macros.iter().map(|(name, value)| match value {
            Macro::Value(value) => format!("macro {name} = {value}"),
            Macro::Function(_) => format!("macro {name}()"),
        }));
        parts.extend(self.filters.iter().map(|(name, _)| format!("filter {name}")));
        parts.join("\n")
    }

    /// The text of a template in the first folder that has it. A name cannot lead out of the folders.
    fn load(&self, name: &str) -> Option<String> {
        let stays_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let read = |folder: &PathBuf| std::fs::read_to_string(folder.join(name)).ok();
        self.searchpath.iter().filter(|_| stays_inside).find_map(read)
    }

    /// The texts of all templates that `texts` include, import or extend, and of those that these do. `None` if a name is
    /// computed: it may be any.
    pub(crate) fn included(&self, texts: &[&String]) -> Option<Vec<String>> {
        if self.searchpath.is_empty() {
            return Some(Vec::new());
        }
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        let mut waiting: Vec<String> = Vec::new();
        for text in texts {
            waiting.extend(included_names(text)?);
        }
        while let Some(name) = waiting.pop() {
            if let Some(text) = self.load(&name).filter(|_| known.insert(name)) {
                waiting.extend(included_names(&text)?);
                found.push(text);
            }
        }
        Some(found)
    }
}

/// The names in the `include`, `import`, `from` and `extends` of a template; `None` if one is computed.
fn included_names(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for block in text.split("{%").skip(1) {
        let block = block.trim_start_matches(['-', '+']).trim_start();
        let end = block.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(block.len());
        let (word, rest) = block.split_at(end);
        if matches!(word, "include" | "import" | "from" | "extends") {
            let rest = rest.trim_start();
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let (name, after) = rest[1..].split_once(quote)?;
            // `'a' ~ b` is computed.
            if after.trim_start().starts_with(['~', '+', '%', '|', 'i']) && !is_plain_end(after) {
                return None;
            }
            names.push(name.to_owned());
        }
    }
    Some(names)
}

/// Whether what follows a name only says how it is used.
fn is_plain_end(after: &str) -> bool {
    let after = after.trim_start();
    after.starts_with("%}")
        || after.starts_with("+%}")
        || after.starts_with("ignore")
        || after.starts_with("import")
}

impl Renderer {
    /// The same, as a dag wants its templates rendered.
    #[must_use]
    pub(crate) fn with_options(self, options: &Arc<TemplateOptions>) -> Self {
        let mut renderer = self.with_native(options.native).with_undefined(options.undefined);
        for (name, value) in &options.macros {
            renderer = match value.clone() {
                Macro::Value(value) => renderer.with_value(name, &value),
                Macro::Function(function) => renderer.with_macro(name, move |args| function(args)),
            };
        }
        for (name, filter) in &options.filters {
            let filter = Arc::clone(filter);
            renderer = renderer.with_filter(name, move |value, args| filter(value, args));
        }
        if options.searchpath.is_empty() {
            return renderer;
        }
        let options = Arc::clone(options);
        renderer.with_includes(move |name| options.load(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_included_templates_are_read_unless_they_are_computed() {
        for (text, wanted) in [
            ("{%include'a.sql' %}{%- extends \"b\" -%}", Some(vec!["a.sql", "b"])),
            ("{% from 'm.j2' import f with context %}", Some(vec!["m.j2"])),
            ("{% include 'a' ignore missing %} include 'c'", Some(vec!["a"])),
            ("{% if from %}{% set include = 1 %}{% endif %}", Some(vec![])),
            ("{% include params.name %}", None),
            ("{% include 'a' ~ ds %}", None),
            ("{% include 'a' if x else 'b' %}", None),
            ("{% include ['a', 'b'] %}", None),
        ] {
            let wanted = wanted.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(included_names(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        let [inside, outside] = ["in", "out"].map(|name| folder.path().join(name));
        for (place, text) in [(&inside, "inside"), (&outside, "outside")] {
            std::fs::create_dir(place).expect("a folder");
            std::fs::write(place.join("x.sql"), text).expect("a file");
        }
        let options =
            TemplateOptions { searchpath: vec![inside, outside.clone()], ..TemplateOptions::default() };
        assert_eq!(options.load("x.sql").as_deref(), Some("inside"), "the first folder wins");
        let absolute = outside.join("x.sql");
        for name in ["../out/x.sql", absolute.to_str().expect("UTF-8"), "y.sql", "./../in/x.sql"] {
            assert_eq!(options.load(name), None, "{name}");
        }
    }
}
