//! Waits for files.

use std::path::Path;

use glob::{MatchOptions, glob_with};

use crate::dag::IsSensor;
use crate::operator::{Description, Operator, Poke, Result, TaskContext, TaskError, blocking};
use crate::template::{Renderer, Template as _, TemplateError};

use super::sensor_parts;

/// Waits until a path or pattern names a file, or a folder with a file in it or below. Its result is the path that was
/// found first, by name.
///
/// Patterns have `*`, `?`, `[a-z]`, `[!a-z]`, and `**` for any folders with [`recursive`](Self::recursive). As in a shell, a wildcard
/// does not match a dot at the start of a name.
///
/// ```
/// use airflow_core::builtin::FileSensor;
/// use airflow_core::dag::{DagDef, SensorExt, TaskExt};
/// use airflow_core::time::{hours, mins};
///
/// let dag = DagDef::new("imports").define(|d| {
///     d.add(FileSensor::new("/in/{{ ds }}/*.csv").poke_every(mins(1)).timeout(hours(2)).reschedule());
/// });
/// assert_eq!(dag.compile()?.tasks[0].id.as_str(), "file_sensor");
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Debug, Clone)]
pub struct FileSensor {
    path: String,
    recursive: bool,
}

impl FileSensor {
    /// Waits for this path or pattern, which may be a template.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), recursive: false }
    }

    /// Lets `**` stand for any number of folders.
    #[must_use]
    pub fn recursive(mut self, yes: bool) -> Self {
        self.recursive = yes;
        self
    }
}

impl Operator for FileSensor {
    type Output = String;
    sensor_parts!("FileSensor");

    fn default_id(&self) -> String {
        "file_sensor".to_owned()
    }

    fn describe(&self, description: &mut Description) {
        description.template("filepath", &self.path);
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        Ok(Some(Self { path: self.path.render(renderer)?, ..*self }))
    }

    async fn poke(&self, _: &TaskContext) -> Result<Poke<String>> {
        let (pattern, recursive) = (self.path.clone(), self.recursive);
        blocking(move || find(&pattern, recursive)).await.map(Poke::from)
    }
}

impl IsSensor for FileSensor {}

/// The first file that matches; files that cannot be read are passed over, as they may be on their way.
fn find(pattern: &str, recursive: bool) -> Result<Option<String>> {
    let plain = if recursive { pattern.to_owned() } else { one_level(pattern) };
    // The crate leaves out every name with a dot at its start, also where the pattern names the dot.
    let names_dot = plain.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: !names_dot,
        ..MatchOptions::default()
    };
    let literal = plain.split('/').take_while(|name| !name.contains(['*', '?', '['])).count();
    let is_hidden = |path: &Path| {
        // As text: `Path` leaves out a `.` at the end, which a folder has beside its files.
        let text = path.to_string_lossy();
        let mut names = text.split('/').skip(literal).peekable();
        std::iter::from_fn(|| names.next().map(|name| (name, names.peek().is_none())))
            .any(|(name, is_last)| name.starts_with('.') && (!is_last || name == "." || name == ".."))
    };
    let found = glob_with(&plain, options)
        .map_err(|error| TaskError::fail(format_args!("`{pattern}` is no pattern for paths: {error}")))?;
    let mut seen = found.flatten().filter(|path| !names_dot || !is_hidden(path));
    let path = seen.find(|path| path.is_file() || holds_a_file(path));
    Ok(path.map(|path| path.display().to_string()))
}

/// `**` means the same as `*`.
fn one_level(pattern: &str) -> String {
    let mut plain = pattern.to_owned();
    while plain.contains("**") {
        plain = plain.replace("**", "*");
    }
    plain
}

/// Whether there is a file in the folder or in one below. Links to folders are not followed: they may lead in a circle.
fn holds_a_file(folder: &Path) -> bool {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => return true,
                Err(_) => {}
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what Python's `glob` and `os.walk` find, with names relative to the folder.
    #[test]
    fn files_and_folders_with_files_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["in/2026/deep", "in/empty", "in/.hidden"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        for file in ["in/a.csv", "in/b.csv", "in/.secret.csv", "in/2026/deep/c.csv", "in/.hidden/d.csv"] {
            std::fs::write(root.path().join(file), "x").expect("a file");
        }
        for (pattern, recursive, expected) in [
            ("in/a.csv", false, Some("in/a.csv")),
            ("in/*.csv", false, Some("in/a.csv")),
            ("in/[b-z].csv", false, Some("in/b.csv")),
            ("in/[!a].csv", false, Some("in/b.csv")),
            ("in/?.csv", false, Some("in/a.csv")),
            ("in/c.csv", false, None),
            ("in/2026", false, Some("in/2026")),
            ("in/empty", false, None),
            ("in/.secret*", false, Some("in/.secret.csv")),
            ("in/**/.s*", true, Some("in/.secret.csv")),
            ("in/*/.*", false, None),
            ("in/*secret*", false, None),
            ("in/**/c.csv", false, None),
            ("in/**/c.csv", true, Some("in/2026/deep/c.csv")),
            ("in/**/d.csv", true, None),
        ] {
            let full = root.path().join(pattern).display().to_string();
            let found = find(&full, recursive).expect("a pattern");
            let expected = expected.map(|path| root.path().join(path).display().to_string());
            assert_eq!(found, expected, "{pattern} {recursive}");
        }
        assert!(
            find("/in/[", false).expect_err("no pattern").to_string().starts_with("`/in/[` is no pattern")
        );
    }
}
