//! Where the log of an attempt lies below the log folder.

use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::config::LOG_TEMPLATE;
use crate::id::{DagId, MapIndex, RunId, TaskId};
use crate::template::{NoLookups, Renderer, TemplateContext, TemplateError};

use super::log::relative_path;

/// Whose log.
#[derive(Debug, Clone, Copy)]
pub struct LogName<'a> {
    /// The dag.
    pub dag: &'a DagId,
    /// The run.
    pub run: &'a RunId,
    /// What the run is about.
    pub logical_date: DateTime<Utc>,
    /// The data of the run.
    pub data_interval: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The task.
    pub task: &'a TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The try, 1 for the first.
    pub try_number: u32,
}

/// A template for the path of a log: `logging.log_filename_template`, as Jinja or in the older form `{dag_id}/..`.
///
/// ```
/// use airflow_core::attempt::log::{LogName, LogTemplate};
/// use airflow_core::id::MapIndex;
///
/// let name = LogName {
///     dag: &"sales".into(),
///     run: &"manual__2026-01-01T00:00:00+00:00".into(),
///     logical_date: "2026-01-01T00:00:00Z".parse()?,
///     data_interval: None,
///     task: &"load".into(),
///     map_index: MapIndex::UNMAPPED,
///     try_number: 2,
/// };
/// let path = LogTemplate::new("{{ ti.dag_id }}/{{ ti.task_id }}/{{ ts }}/{{ try_number }}.log").path(&name)?;
/// assert_eq!(path.to_str(), Some("sales/load/2026-01-01T00:00:00+00:00/2.log"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTemplate(String);

impl Default for LogTemplate {
    fn default() -> Self {
        Self::new(LOG_TEMPLATE)
    }
}

impl LogTemplate {
    /// Takes a template.
    pub fn new(template: impl Into<String>) -> Self {
        Self(template.into())
    }

    /// The path of a log. It never leads out of the folder, whatever ids and template are.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if the template is wrong or names something unknown.
    pub fn path(&self, name: &LogName<'_>) -> Result<PathBuf, TemplateError> {
        if self.0 == LOG_TEMPLATE {
            return Ok(relative_path(name.dag, name.run, name.task, name.map_index, name.try_number));
        }
        let text = if self.0.contains("{{") { self.jinja(name)? } else { self.format(name) };
        let inside = |part: &Component<'_>| matches!(part, Component::Normal(_));
        Ok(Path::new(&text.replace('\0', "_")).components().filter(inside).collect())
    }

    fn jinja(&self, name: &LogName<'_>) -> Result<String, TemplateError> {
        let context = TemplateContext {
            dag_id: safe(name.dag.as_str()),
            task_id: safe(name.task.as_str()),
            run_id: safe(name.run.as_str()),
            logical_date: Some(name.logical_date),
            data_interval: name.data_interval,
            map_index: name.map_index.get(),
            try_number: name.try_number,
            ..TemplateContext::default()
        };
        let renderer = Renderer::new(context, std::sync::Arc::new(NoLookups));
        renderer.render_str(&self.0)
    }

    fn format(&self, name: &LogName<'_>) -> String {
        let iso = |at: DateTime<Utc>| {
            let format =
                if at.timestamp_subsec_micros() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
            at.to_rfc3339_opts(format, false)
        };
        let (start, end) = name.data_interval.unwrap_or((name.logical_date, name.logical_date));
        let fields = [
            ("{dag_id}", safe(name.dag.as_str())),
            ("{task_id}", safe(name.task.as_str())),
            ("{run_id}", safe(name.run.as_str())),
            ("{execution_date}", iso(name.logical_date)),
            ("{logical_date}", iso(name.logical_date)),
            ("{data_interval_start}", iso(start)),
            ("{data_interval_end}", iso(end)),
            ("{try_number}", name.try_number.to_string()),
        ];
        fields.iter().fold(self.0.clone(), |text, (field, value)| text.replace(field, value))
    }
}

/// An id as part of a path: it may hold what file systems do not bear.
pub(super) fn safe(text: &str) -> String {
    text.replace(['/', '\\', '\0'], "_")
}
