//! Files in the form of `airflow.cfg`: sections of options, read and interpolated as Python's `configparser` does it.

use std::collections::{BTreeMap, BTreeSet};

use super::number::python_strip;

/// The section whose options all others have as well.
const DEFAULT: &str = "DEFAULT";

/// How deep `%(name)s` may refer to options that refer to others.
const MAX_DEPTH: u32 = 10;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IniError {
    /// An option stands before the first section.
    #[error("line {line}: `{text}` stands before the first `[section]`")]
    NoSection {
        /// The line, 1 for the first.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A section begins twice.
    #[error("line {line}: the section `[{section}]` begins a second time; put its options together")]
    DuplicateSection {
        /// The line of the second.
        line: usize,
        /// The section.
        section: String,
    },
    /// An option stands twice in a section.
    #[error("line {line}: `{option}` stands in `[{section}]` a second time; leave one of them out")]
    DuplicateOption {
        /// The line of the second.
        line: usize,
        /// The section.
        section: String,
        /// The option.
        option: String,
    },
    /// Lines that are neither a section nor an option.
    #[error("line {line}: `{text}` is no option; write `key = value`")]
    NoOption {
        /// The first such line.
        line: usize,
        /// What stands there.
        text: String,
    },
}

/// Why `%(name)s` in a value cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpolationError {
    /// A `%` that begins nothing.
    #[error("`%` must be followed by `%` or `(name)s`; write `%%` for a percent sign")]
    Syntax,
    /// An option that is not there.
    #[error("`%({0})s` names an option that neither this section nor `[DEFAULT]` has")]
    Missing(String),
    /// Options that refer to each other.
    #[error("the options that it names refer to others more than {MAX_DEPTH} times over")]
    Depth,
}

type Options = BTreeMap<String, String>;

/// A file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    sections: BTreeMap<String, Options>,
    defaults: Options,
}

impl Ini {
    /// Reads a text.
    ///
    /// # Errors
    ///
    /// [`IniError`].
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut reader = Reader::default();
        for (at, line) in text.split('\n').enumerate() {
            reader.line(at + 1, line)?;
        }
        reader.finish()
    }

    /// All sections but `[DEFAULT]` with the options that stand in them.
    pub fn sections(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.sections.iter().map(|(name, options)| (name.as_str(), options.keys().map(String::as_str)))
    }

    /// The value of an option as it stands there, of its section or of `[DEFAULT]`.
    pub fn raw(&self, section: &str, option: &str) -> Option<&str> {
        let options = self.sections.get(section)?;
        options.get(option).or_else(|| self.defaults.get(option)).map(String::as_str)
    }

    /// The value of an option with `%(name)s` and `%%` replaced.
    ///
    /// # Errors
    ///
    /// [`InterpolationError`].
    pub fn get(&self, section: &str, option: &str) -> Result<Option<String>, InterpolationError> {
        let Some(raw) = self.raw(section, option) else { return Ok(None) };
        let mut value = String::new();
        self.interpolate(section, raw, &mut value, 1)?;
        Ok(Some(value))
    }

    fn interpolate(
        &self,
        section: &str,
        raw: &str,
        value: &mut String,
        depth: u32,
    ) -> Result<(), InterpolationError> {
        if depth > MAX_DEPTH {
            return Err(InterpolationError::Depth);
        }
        let mut rest = raw;
        while let Some(at) = rest.find('%') {
            value.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('%') {
                value.push('%');
                rest = after;
                continue;
            }
            let reference = after.strip_prefix('(').and_then(|inside| {
                let end = inside.find(')').filter(|end| *end > 0)?;
                Some((&inside[..end], inside[end..].strip_prefix(")s")?))
            });
            let (name, after) = reference.ok_or(InterpolationError::Syntax)?;
            let found = self.raw(section, name);
            let found = found.ok_or_else(|| InterpolationError::Missing(name.to_owned()))?;
            if found.contains('%') {
                self.interpolate(section, found, value, depth + 1)?;
            } else {
                value.push_str(found);
            }
            rest = after;
        }
        value.push_str(rest);
        Ok(())
    }
}

#[derive(Default)]
struct Reader {
    ini: Ini,
    /// The section the lines belong to.
    section: Option<String>,
    /// The option that a line further to the right continues, and its lines.
    option: Option<(String, Vec<String>)>,
    indent: usize,
    seen: BTreeSet<String>,
    first_error: Option<IniError>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), IniError> {
        let text = python_strip(line);
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.is_empty() {
            if let Some((_, lines)) = &mut self.option {
                lines.push(String::new());
            }
            return Ok(());
        }
        let indent = line.chars().take_while(|c| python_strip(c.encode_utf8(&mut [0; 4])).is_empty()).count();
        if let Some((_, lines)) = self.option.as_mut().filter(|_| indent > self.indent) {
            lines.push(text.to_owned());
            return Ok(());
        }
        self.indent = indent;
        if let Some(header) = header_of(text) {
            return self.begin(number, header);
        }
        let Some(section) = self.section.clone() else {
            return Err(IniError::NoSection { line: number, text: text.to_owned() });
        };
        self.end_option();
        let Some((name, value)) = text.split_once(['=', ':']).map(|(n, v)| (python_strip(n), v)) else {
            let error = IniError::NoOption { line: number, text: text.to_owned() };
            self.first_error.get_or_insert(error);
            return Ok(());
        };
        if name.is_empty() {
            let error = IniError::NoOption { line: number, text: text.to_owned() };
            self.first_error.get_or_insert(error);
        }
        if self.options(&section).insert(name.to_owned(), String::new()).is_some() {
            let option = name.to_owned();
            return Err(IniError::DuplicateOption { line: number, section, option });
        }
        self.option = Some((name.to_owned(), vec![python_strip(value).to_owned()]));
        Ok(())
    }

    fn begin(&mut self, line: usize, header: &str) -> Result<(), IniError> {
        self.end_option();
        if header != DEFAULT && !self.seen.insert(header.to_owned()) {
            return Err(IniError::DuplicateSection { line, section: header.to_owned() });
        }
        self.options(header);
        self.section = Some(header.to_owned());
        Ok(())
    }

    fn options(&mut self, section: &str) -> &mut Options {
        if section == DEFAULT {
            return &mut self.ini.defaults;
        }
        self.ini.sections.entry(section.to_owned()).or_default()
    }

    fn end_option(&mut self) {
        let Some((name, lines)) = self.option.take() else { return };
        let value = lines.join("\n");
        let value = value.trim_end_matches(|c: char| python_strip(c.encode_utf8(&mut [0; 4])).is_empty());
        let section = self.section.clone().unwrap_or_default();
        self.options(&section).insert(name, value.to_owned());
    }

    fn finish(mut self) -> Result<Ini, IniError> {
        self.end_option();
        self.first_error.map_or(Ok(self.ini), Err)
    }
}

/// The name between the first `[` and the last `]`, if the line begins with `[`.
fn header_of(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('[')?;
    inside.rfind(']').filter(|end| *end > 0).map(|end| &inside[..end])
}
