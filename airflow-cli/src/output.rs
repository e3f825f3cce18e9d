//! What people and programs see of lists: tables, JSON, YAML, plain columns.

use airflow_core::state::{RunState, TaskState};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr as _;

use crate::error::CliError;
use crate::host::Host;
use crate::yaml::to_yaml;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns with a header and a rule, for people.
    #[default]
    Table,
    /// A JSON document; times are RFC 3339 in UTC.
    Json,
    /// A YAML document.
    Yaml,
    /// Columns with a header, without decoration.
    Plain,
}

/// The option `-o` of every command that lists something.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct OutputArg {
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// The colour of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Bad,
    Busy,
    Dim,
}

/// One value in a list.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    value: Value,
    text: String,
    tone: Tone,
}

impl Cell {
    fn new(value: Value, text: impl Into<String>, tone: Tone) -> Self {
        Self { value, text: text.into(), tone }
    }

    /// A value whose text is its JSON.
    pub(crate) fn json(value: Value) -> Self {
        let text = match &value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Self::new(value, text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text.into(), text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

macro_rules! cell_of_number {
    ($($number:ty),+) => { $(
        impl From<$number> for Cell {
            fn from(number: $number) -> Self {
                Self::new(number.into(), number.to_string(), Tone::Plain)
            }
        }
    )+ };
}
cell_of_number!(i32, i64, u32, u64, usize);

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::new(value.into(), if value { "True" } else { "False" }, Tone::Plain)
    }
}

impl From<DateTime<Utc>> for Cell {
    fn from(at: DateTime<Utc>) -> Self {
        Self::new(rfc3339(at).into(), short(at), Tone::Plain)
    }
}

impl From<RunState> for Cell {
    fn from(state: RunState) -> Self {
        let tone = match state {
            RunState::Success => Tone::Good,
            RunState::Failed => Tone::Bad,
            RunState::Running => Tone::Busy,
            RunState::Queued => Tone::Dim,
        };
        Self::new(state.as_str().into(), state.as_str(), tone)
    }
}

impl From<TaskState> for Cell {
    fn from(state: TaskState) -> Self {
        let tone = match state {
            TaskState::Success => Tone::Good,
            state if state.is_failure() => Tone::Bad,
            TaskState::None | TaskState::Skipped | TaskState::Removed => Tone::Dim,
            _ => Tone::Busy,
        };
        Self::new(state.as_str().into(), state.as_str(), tone)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(|| Self::new(Value::Null, "", Tone::Plain), Into::into)
    }
}

impl From<Vec<String>> for Cell {
    fn from(list: Vec<String>) -> Self {
        let text = list.join(", ");
        Self::new(list.into(), text, Tone::Plain)
    }
}

/// A time as programs read it.
pub(crate) fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A time as people read it, in UTC.
pub(crate) fn short(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A list.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// Makes one row of a list.
macro_rules! row {
    ($($cell:expr),+ $(,)?) => { vec![$($crate::output::Cell::from($cell)),+] };
}
pub(crate) use row;

impl Table {
    pub(crate) fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self::of(columns)
    }

    /// The same, of columns that are known only when it is made.
    pub(crate) fn of<'c>(columns: impl IntoIterator<Item = &'c str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "every column has a cell");
        self.rows.push(row);
    }

    /// Keeps only some columns, in the order asked for.
    pub(crate) fn keep(self, wanted: &[String]) -> Result<Self, CliError> {
        let find = |name: &String| {
            self.columns.iter().position(|column| column == name).ok_or_else(|| {
                CliError::Usage(format!("there is no column `{name}`; there are {}", self.columns.join(", ")))
            })
        };
        let indices = wanted.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let pick = |row: &Vec<Cell>| indices.iter().map(|index| row[*index].clone()).collect();
        Ok(Self { columns: wanted.to_vec(), rows: self.rows.iter().map(pick).collect() })
    }

    /// The list as plain columns.
    pub(crate) fn plain(&self) -> String {
        self.columns_text("  ", false, false)
    }

    /// Writes the list.
    pub(crate) fn print(&self, host: &mut Host, format: OutputArg) -> Result<(), CliError> {
        let text = match format.output {
            Format::Table if self.rows.is_empty() => "No data found\n".to_owned(),
            Format::Table => self.columns_text(" | ", true, host.colors()),
            Format::Plain => self.plain(),
            Format::Json => serde_json::to_string_pretty(&self.value())? + "\n",
            Format::Yaml => to_yaml(&self.value()),
        };
        Ok(host.raw(&text)?)
    }

    /// Writes the only row: as a document, or one property in each line.
    pub(crate) fn print_one(&self, host: &mut Host, format: OutputArg) -> Result<(), CliError> {
        let Some(row) = self.rows.first() else { return Ok(()) };
        let text = match format.output {
            Format::Json => serde_json::to_string_pretty(&self.object(row))? + "\n",
            Format::Yaml => to_yaml(&self.object(row)),
            Format::Table | Format::Plain => {
                let mut upright = Table::new(["property", "value"]);
                for (column, cell) in self.columns.iter().zip(row) {
                    upright.push(vec![Cell::from(column.as_str()), cell.clone()]);
                }
                return upright.print(host, format);
            }
        };
        Ok(host.raw(&text)?)
    }

    fn object(&self, row: &[Cell]) -> Value {
        let pairs = self.columns.iter().zip(row).map(|(name, cell)| (name.clone(), cell.value.clone()));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    fn value(&self) -> Value {
        Value::Array(self.rows.iter().map(|row| self.object(row)).collect())
    }

    fn columns_text(&self, between: &str, rule: bool, colors: bool) -> String {
        let lines: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| one_line(&cell.text)).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| lines.iter().map(|line| line[i].width()).fold(self.columns[i].width(), usize::max))
            .collect();
        let mut out = String::new();
        let mut write = |cells: &mut dyn Iterator<Item = (String, usize)>, between: &str| {
            let line: Vec<String> = cells
                .zip(&widths)
                .map(|((text, width), full)| text + &" ".repeat(full.saturating_sub(width)))
                .collect();
            out.push_str(line.join(between).trim_end());
            out.push('\n');
        };
        write(&mut self.columns.iter().map(|name| (name.clone(), name.width())), between);
        if rule {
            write(&mut widths.iter().map(|width| ("=".repeat(*width), *width)), "=+=");
        }
        for (line, row) in lines.iter().zip(&self.rows) {
            let cells = line.iter().zip(row);
            write(&mut cells.map(|(text, cell)| (paint(text, cell.tone, colors), text.width())), between);
        }
        out
    }
}

/// Lines in a cell would break the table.
fn one_line(text: &str) -> String {
    text.replace("\r\n", " ").replace(['\n', '\r', '\t'], " ")
}

fn paint(text: &str, tone: Tone, colors: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => 32,
        Tone::Bad => 31,
        Tone::Busy => 33,
        Tone::Dim => 2,
    };
    if colors && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}
