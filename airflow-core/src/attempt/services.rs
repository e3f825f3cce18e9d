//! What a running task can ask for: stored values, variables, templates.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::asset::{AssetEvent, AssetEventFilter, AssetRef};
use crate::compile::CompiledDag;
use crate::config::{ConfigError, options::Settings};
use crate::connection::Connection;
use crate::host::host_name;
use crate::id::{DagId, MapIndex, RunPk, TaskId, TaskIdx};
use crate::operator::{
    BoxError, FoundRun, MadeRun, RunInfo, RunRequest, RunsQuery, TaskServices, TiInfo, XComQuery,
};
use crate::plan::Attempt;
use crate::registry::Registry;
use crate::secret::Secret;
use crate::secrets::{EnvironmentSecrets, Secrets};
use crate::state::{RunState, RunType, TaskState};
use crate::store::{AttemptState, RunFilter, RunRow, SharedStore, XComFilter};
use crate::template::{Lookups, PreviousRun, Renderer, TemplateAssets, TemplateConnection, TemplateContext};
use crate::xcom::XComValue;

use super::inputs::mapped_instances;
use super::names::Names;
use super::{RunMaker, Runner};

/// How many earlier runs are searched for a value (`include_prior_dates`).
const PRIOR_RUNS: u32 = 1000;

/// What Python's `quote` encodes in a path.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// How many events of each inlet templates see, the newest of them.
const PAST_EVENTS: u32 = 1000;

#[derive(Debug)]
pub(super) struct StoreServices {
    store: SharedStore,
    secrets: Secrets,
    registry: Registry,
    maker: Option<Arc<dyn RunMaker>>,
}

impl StoreServices {
    pub(super) fn new(runner: &Runner) -> Self {
        Self {
            store: Arc::clone(&runner.store),
            secrets: runner.secrets.clone(),
            registry: runner.registry.clone(),
            maker: runner.runs.clone(),
        }
    }

    async fn runs(&self, run: &RunInfo, query: &XComQuery) -> Result<Vec<RunRow>, BoxError> {
        let dag_id = query.dag_id.clone().unwrap_or_else(|| run.dag_id.clone());
        let other_dag = dag_id != run.dag_id;
        let mut filter = RunFilter { dag_id: Some(dag_id), newest_first: true, ..RunFilter::default() };
        if query.include_prior_dates || (other_dag && query.run_id.is_none()) {
            filter.to = Some(run.logical_date);
            filter.limit = Some(if query.include_prior_dates { PRIOR_RUNS } else { 1 });
            filter.from = (!query.include_prior_dates).then_some(run.logical_date);
        } else {
            filter.run_id = Some(query.run_id.clone().unwrap_or_else(|| run.run_id.clone()));
        }
        Ok(self.store.runs(&filter).await?)
    }
}

#[async_trait]
impl TaskServices for StoreServices {
    async fn xcoms(&self, run: &RunInfo, query: XComQuery) -> Result<Vec<Vec<Arc<XComValue>>>, BoxError> {
        let runs = self.runs(run, &query).await?;
        let mut answer = Vec::with_capacity(query.task_ids.len());
        for task in &query.task_ids {
            let mut values = Vec::new();
            for run in &runs {
                let filter = XComFilter {
                    run: run.pk,
                    tasks: vec![task.clone()],
                    map_index: query.map_index,
                    key: Some(query.key.clone()),
                };
                values = self.store.xcoms(&filter).await?.into_iter().map(|row| row.value).collect();
                if !values.is_empty() {
                    break;
                }
            }
            answer.push(values);
        }
        Ok(answer)
    }

    async fn variable(&self, key: &str) -> Result<Option<String>, BoxError> {
        Ok(self.secrets.variable(key).await?)
    }

    async fn set_variable(&self, key: &str, value: &str) -> Result<(), BoxError> {
        let outside = EnvironmentSecrets::variable_name(key);
        if self.secrets.environment().has(&outside) {
            tracing::warn!("{outside} is set and wins over what is written to the variable `{key}`");
        }
        self.secrets.masker().add_named(key, value);
        Ok(self.secrets.vault().set_variable(key, value, None).await?)
    }

    async fn connection(&self, conn_id: &str) -> Result<Option<Connection>, BoxError> {
        Ok(self.secrets.connection(conn_id).await?)
    }

    fn mask_secret(&self, secret: &str) {
        self.secrets.masker().add(secret);
    }

    async fn asset_events(&self, filter: &AssetEventFilter) -> Result<Vec<AssetEvent>, BoxError> {
        Ok(self.store.asset_events(filter).await?)
    }

    async fn find_runs(&self, query: &RunsQuery) -> Result<Vec<FoundRun>, BoxError> {
        let filter = RunFilter {
            dag_id: Some(query.dag_id.clone()),
            run_id: query.run_id.clone(),
            from: query.logical_date,
            to: query.logical_date,
            ..RunFilter::default()
        };
        let found = |run: RunRow| FoundRun {
            pk: run.pk,
            run_id: run.run_id,
            state: run.state,
            logical_date: run.logical_date,
        };
        Ok(self.store.runs(&filter).await?.into_iter().map(found).collect())
    }

    async fn task_states(&self, run: RunPk) -> Result<Vec<(TaskId, MapIndex, TaskState)>, BoxError> {
        let rows = self.store.task_instances(run).await?;
        Ok(rows.into_iter().map(|ti| (ti.task_id, ti.map_index, ti.state)).collect())
    }

    async fn dag_tasks(
        &self,
        dag_id: &DagId,
        names: &[String],
    ) -> Result<Option<Vec<Vec<TaskId>>>, BoxError> {
        if let Some(dag) = self.registry.get(dag_id) {
            let tasks = |name: &String| match dag.find(name) {
                Some(task) => vec![dag.task(task).id.clone()],
                None => dag.group_tasks(name).iter().map(|task| dag.task(*task).id.clone()).collect(),
            };
            return Ok(Some(names.iter().map(tasks).collect()));
        }
        // Another program carries it: its structure is in the store.
        let Some(version) = self.store.dag_versions(dag_id).await?.into_iter().next() else {
            return Ok(None);
        };
        let listed = version.structure["tasks"].as_array().cloned().unwrap_or_default();
        let tasks = |name: &String| -> Vec<TaskId> {
            let below = format!("{name}.");
            let ids = listed.iter().filter_map(|task| task["id"].as_str());
            ids.filter(|id| *id == name || id.starts_with(&below)).map(TaskId::new).collect()
        };
        Ok(Some(names.iter().map(tasks).collect()))
    }

    async fn make_run(&self, request: &RunRequest) -> Result<MadeRun, BoxError> {
        match &self.maker {
            Some(maker) => maker.make_run(request).await,
            None => Err("this process cannot make runs".into()),
        }
    }
}

/// A value and the map index of the instance that left it.
type Indexed = (i32, Arc<XComValue>);

/// What templates look up, fetched before rendering.
#[derive(Debug)]
struct Fetched {
    variables: BTreeMap<String, String>,
    connections: BTreeMap<String, Connection>,
    values: BTreeMap<(TaskId, String), Vec<Indexed>>,
    settings: Arc<Settings>,
}

impl Lookups for Fetched {
    fn variable(&self, key: &str) -> Option<String> {
        self.variables.get(key).cloned()
    }

    fn connection(&self, id: &str) -> Option<TemplateConnection> {
        let found = self.connections.get(id)?;
        let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().clone());
        Some(TemplateConnection {
            conn_id: found.conn_id.clone(),
            conn_type: found.conn_type.clone().unwrap_or_default(),
            description: found.description.clone(),
            host: found.host.clone(),
            login: found.login.clone(),
            password: exposed(&found.password),
            schema: found.schema.clone(),
            port: found.port,
            extra: exposed(&found.extra),
            uri: Some(found.to_uri()),
        })
    }

    fn setting(&self, section: &str, key: &str) -> Result<String, ConfigError> {
        self.settings.public(section, key)
    }

    fn xcom(&self, task_id: &str, key: &str, map_index: Option<i32>) -> Option<Value> {
        let values = self.values.get(&(TaskId::new(task_id), key.to_owned()))?;
        let value = match map_index {
            Some(index) => &values.iter().find(|(at, _)| *at == index)?.1,
            None => match values.as_slice() {
                [(-1, value)] => value,
                many => return Some(many.iter().map(|(_, value)| value.value().clone()).collect()),
            },
        };
        Some(value.value().clone())
    }
}

impl Fetched {
    /// Fetches the variables and connections that templates name; all that there are if a name is computed.
    async fn look_up(&mut self, secrets: &Secrets, names: Names) -> Result<(), BoxError> {
        let (mut keys, mut ids) = (names.variables, names.connections);
        if names.any_variable {
            keys.extend(secrets.vault().variables().await?.into_iter().map(|variable| variable.key));
            keys.extend(secrets.environment().variable_keys());
        }
        if names.any_connection {
            ids.extend(secrets.vault().connections().await?.into_iter().map(|found| found.conn_id));
            ids.extend(secrets.environment().conn_ids());
        }
        for key in keys {
            if let Some(value) = secrets.variable(&key).await? {
                self.variables.insert(key, value);
            }
        }
        for id in ids {
            if let Some(found) = secrets.connection(&id).await? {
                self.connections.insert(id, found);
            }
        }
        Ok(())
    }
}

/// All that a renderer for an attempt is made of. Most attempts never need one, so it is put together when it is asked for.
#[derive(Clone)]
pub(super) struct TemplateParts {
    dag: Arc<CompiledDag>,
    task: TaskIdx,
    run: Arc<RunInfo>,
    ti: TiInfo,
    queue: String,
    params: Arc<Value>,
    started_at: DateTime<Utc>,
    now: DateTime<Utc>,
    is_test: bool,
    found: Found,
    lookups: Arc<Fetched>,
}

/// What templates of a task name that has to be looked for.
#[derive(Clone, Default)]
struct Found {
    previous_success: Option<PreviousRun>,
    expanded_ti_count: Option<u32>,
    task_reschedule_count: u32,
    assets: TemplateAssets,
}

impl TemplateParts {
    pub(super) fn renderer(&self) -> Renderer {
        let lookups: Arc<dyn Lookups> = Arc::clone(&self.lookups) as _;
        Renderer::new(template_context(self), lookups).with_options(&self.dag.settings.templates)
    }
}

pub(super) async fn template_parts(
    runner: &Runner,
    dag: &Arc<CompiledDag>,
    attempt: &Attempt,
    params: &Arc<Value>,
) -> Result<TemplateParts, BoxError> {
    let task = dag.task(attempt.task);
    let mut lookups = Fetched {
        variables: BTreeMap::new(),
        connections: BTreeMap::new(),
        values: BTreeMap::new(),
        settings: Arc::clone(&runner.config.settings),
    };
    let mut found = Found::default();
    found.assets.inlets = Arc::clone(&task.settings.inlets);
    found.assets.outlets = Arc::clone(&task.settings.outlets);
    if task.has_templates || !task.operator.description().input_templates.is_empty() {
        let description = task.operator.description();
        let fields = description.templates.iter().flat_map(|field| &field.sources);
        let own: Vec<&String> = fields.chain(&description.input_templates).collect();
        // What is included by a computed name may name anything.
        let included = dag.settings.templates.included(&own);
        let texts: Vec<&String> = own.into_iter().chain(included.iter().flatten()).collect();
        let names = |word: &str| included.is_none() || texts.iter().any(|text| text.contains(word));
        let looked_up = if included.is_none() { Names::any() } else { Names::of(texts.iter().copied()) };
        lookups.look_up(&runner.secrets, looked_up).await?;
        if names("xcom_pull") {
            let filter = XComFilter { run: attempt.run.pk, tasks: Vec::new(), map_index: None, key: None };
            for row in runner.store.xcoms(&filter).await? {
                lookups.values.entry((row.task_id, row.key)).or_default().push((row.map_index.0, row.value));
            }
        }
        if names("prev_") {
            found.previous_success = previous(runner, attempt).await?;
        }
        if names("expanded_ti_count") {
            found.expanded_ti_count = mapped_instances(runner, dag, attempt).await?;
        }
        if names("task_reschedule_count") {
            found.task_reschedule_count = reschedules(runner, attempt).await?;
        }
        if names("triggering_") {
            let filter = AssetEventFilter::that_made(attempt.run.pk);
            found.assets.triggering = runner.store.asset_events(&filter).await?;
        }
        if names("inlet_events") {
            found.assets.past = past_events(runner, &task.settings.inlets).await?;
        }
    }
    Ok(TemplateParts {
        dag: Arc::clone(dag),
        task: attempt.task,
        run: Arc::clone(&attempt.run),
        ti: attempt.ti.clone(),
        queue: attempt.queue.clone(),
        params: Arc::clone(params),
        started_at: attempt.at,
        now: runner.clock.now(),
        is_test: runner.config.test_mode,
        found,
        lookups: Arc::new(lookups),
    })
}

/// The events of the assets that a task reads, by time.
async fn past_events(runner: &Runner, inlets: &[AssetRef]) -> Result<Vec<AssetEvent>, BoxError> {
    let mut all = Vec::new();
    for asset in inlets.iter().filter_map(AssetRef::asset) {
        let newest =
            AssetEventFilter { newest_first: true, limit: Some(PAST_EVENTS), ..AssetEventFilter::of(asset) };
        all.extend(runner.store.asset_events(&newest).await?.into_iter().rev());
    }
    Ok(all)
}

/// How often this try has asked to be run again later.
async fn reschedules(runner: &Runner, attempt: &Attempt) -> Result<u32, BoxError> {
    let ti = &attempt.ti;
    let rows = runner.store.attempts(attempt.run.pk, Some((&ti.task_id, ti.map_index))).await?;
    let of_try = rows.iter().filter(|row| row.start.try_number == ti.try_number);
    let count = of_try.filter(|row| row.state == AttemptState::Rescheduled).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

async fn previous(runner: &Runner, attempt: &Attempt) -> Result<Option<PreviousRun>, BoxError> {
    let filter = RunFilter {
        dag_id: Some(attempt.run.dag_id.clone()),
        states: vec![RunState::Success],
        to: Some(attempt.run.logical_date - chrono::TimeDelta::microseconds(1)),
        newest_first: true,
        limit: Some(1),
        ..RunFilter::default()
    };
    let run = runner.store.runs(&filter).await?.into_iter().next();
    Ok(run.map(|run| PreviousRun {
        logical_date: Some(run.logical_date),
        data_interval: Some((run.data_interval.start, run.data_interval.end)),
        start_date: run.started_at,
        end_date: run.ended_at,
    }))
}

/// The logical dates before and after that of a run, by its schedule. A run that no schedule made has its own on both
/// sides, as in Airflow.
fn neighbours(dag: &CompiledDag, run: &RunInfo) -> [Option<DateTime<Utc>>; 2] {
    if run.run_type == RunType::Manual {
        return [Some(run.logical_date); 2];
    }
    let interval = run.data_interval;
    let before = dag.timetable.infer_manual_data_interval(interval.start).ok();
    let before = before.map(|before| before.start).filter(|start| *start < interval.start);
    // Without an interval there is nothing to say where the next one begins.
    [before, (interval.end > interval.start).then_some(interval.end)]
}

/// Where Airflow's pages show the log of an attempt: `ti.log_url`. Nowhere if it is not said where they are.
fn log_url(base_url: &str, run: &RunInfo, ti: &TiInfo) -> String {
    if base_url.is_empty() {
        return String::new();
    }
    let quoted = |text: &str| utf8_percent_encode(text, QUOTED).to_string();
    let mapped = ti.map_index.get().map(|index| format!("&map_index={index}")).unwrap_or_default();
    format!(
        "{}/dags/{}/grid?dag_run_id={}&task_id={}{mapped}&base_date={}&tab=logs",
        base_url.trim_end_matches('/'),
        run.dag_id,
        quoted(run.run_id.as_str()),
        ti.task_id,
        quoted(&run.logical_date.format("%Y-%m-%dT%H:%M:%S%z").to_string()),
    )
}

fn template_context(parts: &TemplateParts) -> TemplateContext {
    let TemplateParts { dag, run, ti, found, .. } = parts;
    let task = dag.task(parts.task);
    let [previous_logical_date, next_logical_date] = neighbours(dag, run);
    let mut dag_fields = Map::new();
    dag_fields.insert("dag_id".into(), dag.id.as_str().into());
    dag_fields.insert("tags".into(), dag.settings.tags.clone().into());
    dag_fields.insert("owner".into(), dag.settings.owners.clone().into());
    dag_fields.insert("description".into(), dag.settings.description.clone().into());
    let mut task_fields = Map::new();
    task_fields.insert("retries".into(), task.settings.retry.retries.into());
    task_fields.insert("pool".into(), task.settings.pool.clone().into());
    task_fields.insert("queue".into(), parts.queue.clone().into());
    TemplateContext {
        dag_id: run.dag_id.to_string(),
        task_id: ti.task_id.to_string(),
        dag_display_name: dag.settings.display_name.clone(),
        task_display_name: task.settings.display_name.clone(),
        owner: task.settings.owner.clone(),
        operator: task.operator.name().to_owned(),
        dag_fields,
        task_fields,
        run_id: run.run_id.to_string(),
        run_type: run.run_type.to_string(),
        logical_date: Some(run.logical_date),
        data_interval: Some((run.data_interval.start, run.data_interval.end)),
        previous_logical_date,
        next_logical_date,
        try_number: ti.try_number,
        max_tries: ti.max_tries,
        map_index: ti.map_index.get(),
        params: (*parts.params).clone(),
        conf: run.conf.clone(),
        run_state: RunState::Running.to_string(),
        run_start_date: run.started_at,
        run_queued_at: Some(run.queued_at),
        start_date: Some(parts.started_at),
        hostname: host_name(),
        log_url: log_url(parts.lookups.settings.text("webserver", "base_url"), run, ti),
        test_mode: parts.is_test,
        now: parts.now,
        previous_success: found.previous_success.clone(),
        expanded_ti_count: found.expanded_ti_count,
        task_reschedule_count: found.task_reschedule_count,
        assets: Box::new(found.assets.clone()),
        ..TemplateContext::default()
    }
}
