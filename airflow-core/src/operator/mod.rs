//! What a task does: the traits that users implement, what their code gets, and how it ends.
//!
//! - [`Operator`]: a kind of task with typed inputs and one typed output. `#[task]` and `#[derive(Operator)]` write
//!   the implementation; [`Execute`] is the part a person writes.
//! - [`In`]: an input that is a constant or comes from upstream.
//! - [`TaskContext`]: everything about the attempt, its run and its dag.
//! - [`TaskError`]: how an attempt can end other than well.

mod assets;
mod branch;
mod context;
mod error;
mod input;
mod lookups;
mod params;
mod resources;
mod sensor;
mod services;
mod wait;

pub use assets::{AliasNote, OutletNote};
pub use branch::Branch;
pub(crate) use context::missing_resource;
pub use context::{Cancel, ContextParts, RunInfo, TaskContext, TiInfo};
pub use error::{BoxError, ResultExt, TaskError, TaskReturn};
pub use input::{
    Elem, Expand, ExpandSource, In, InputError, InputRef, Inputs, IntoIn, ScopeId, TemplateText, template,
};
pub(crate) use lookups::no_connection;
pub use params::Params;
pub use resources::{ResourceNeed, Resources};
pub use sensor::{
    DEFAULT_POKE_INTERVAL, DEFAULT_SENSOR_TIMEOUT, Poke, PokeReturn, Sensor, SensorMode, SensorSettings,
    watch,
};
pub use services::{FoundRun, MadeRun, RunRequest, RunsQuery, TaskServices, XComQuery};
pub(crate) use wait::POKES;
pub use wait::{DEFAULT_METHOD, Deferral, Deferred, Resumed, Trigger, TriggerKind, Wait};

use std::any::TypeId;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::dag::{Role, TaskOptions};
use crate::template::{Renderer, TemplateError};
use crate::xcom::{Data, RETURN_VALUE, XComValue, is_stored};

/// The result of a task body.
pub type Result<T, E = TaskError> = std::result::Result<T, E>;

/// A kind of task: what it needs, what it does, what it returns.
///
/// Written by `#[task]` for a function and by `#[derive(Operator)]` for a struct; implement it by hand only where
/// neither fits.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an operator",
    label = "not a task",
    note = "put `#[task]` on the function and call `name::call(..)`, or derive `Operator` for the struct"
)]
pub trait Operator: Sized + Send + Sync + 'static {
    /// What it returns.
    type Output: Data;

    /// The name of the kind, shown to people: the function or the struct.
    const NAME: &'static str;

    /// The colour of its box in pictures of the dag, such as `#4a154b`.
    const COLOR: Option<&'static str> = None;

    /// Whether it is a sensor, which has options of its own and waits in one of its modes.
    const IS_SENSOR: bool = false;

    /// The id of a task of this kind, if the user gives none.
    fn default_id(&self) -> String {
        Self::NAME.to_owned()
    }

    /// Options that belong to the kind; a use may override them.
    fn defaults(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// Whether a task of this kind is a setup or a teardown, if the use says nothing.
    fn role(&self) -> Role {
        Role::Work
    }

    /// Tells what it takes from upstream, what it renders and what it needs injected.
    fn describe(&self, description: &mut Description);

    /// A copy with its template fields rendered; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if a field cannot be rendered.
    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        let _ = renderer;
        Ok(None)
    }

    /// Does the work of one attempt.
    fn execute(&self, cx: &TaskContext) -> impl Future<Output = Result<Self::Output>> + Send;

    /// Goes on after a deferral. A task function is called again; it sees [`TaskContext::resumed`].
    fn resume(
        &self,
        cx: &TaskContext,
        resumed: &Resumed,
    ) -> impl Future<Output = Result<Self::Output>> + Send {
        let _ = resumed;
        self.execute(cx)
    }

    /// Looks once, if it is a sensor.
    fn poke(&self, cx: &TaskContext) -> impl Future<Output = Result<Poke<Self::Output>>> + Send {
        let _ = cx;
        async { Err(TaskError::fail(format_args!("`{}` is no sensor", Self::NAME))) }
    }

    /// Called when a running attempt is cancelled or timed out, to stop what it started elsewhere; also when a deferred
    /// task is cleared or marked.
    fn on_kill(&self, cx: &TaskContext) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// The work of an operator struct. The rest of [`Operator`] comes from `#[derive(Operator)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` derives `Operator` but has no `impl Execute`",
    label = "nothing says what this operator does",
    note = "write `impl Execute for {Self} {{ type Output = (); async fn execute(&self, cx: &TaskContext) -> Result<()> {{ .. }} }}`"
)]
pub trait Execute: Send + Sync + 'static {
    /// What it returns.
    type Output: Data;

    /// Does the work of one attempt.
    fn execute(&self, cx: &TaskContext) -> impl Future<Output = Result<Self::Output>> + Send;

    /// Goes on after a [`Deferral`] that `execute` or `resume` returned.
    fn resume(
        &self,
        cx: &TaskContext,
        resumed: &Resumed,
    ) -> impl Future<Output = Result<Self::Output>> + Send {
        let error = format!(
            "task `{}` was deferred, but its operator has no `resume` to go on at `{}`",
            cx.task_id(),
            resumed.method()
        );
        async { Err(TaskError::Fail(error)) }
    }

    /// Called when a running attempt is cancelled or timed out, to stop what it started elsewhere; also when a deferred
    /// task is cleared or marked.
    fn on_kill(&self, cx: &TaskContext) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// What an operator says about itself when its dag is built.
#[derive(Debug, Default, Clone)]
pub struct Description {
    /// What it takes from upstream.
    pub inputs: Vec<InputRef>,
    /// The fields that are templates.
    pub templates: Vec<TemplateField>,
    /// What must be injected.
    pub resources: Vec<ResourceNeed>,
    /// What it may defer to.
    pub triggers: Vec<TriggerKind>,
    /// Templates among the inputs.
    pub input_templates: Vec<String>,
    /// The definitions that the handles among its inputs belong to.
    pub(crate) builders: Vec<u64>,
}

/// A field that is rendered before the task body runs.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateField {
    /// Its name.
    pub name: &'static str,
    /// The template texts in it.
    pub sources: Vec<String>,
    /// Its value as shown to people.
    pub shown: Value,
}

impl Description {
    /// Adds an input.
    pub fn input<T: 'static>(&mut self, input: &In<T>) {
        self.inputs.extend(input.refs());
        self.input_templates.extend_from_slice(input.templates());
        self.builders.extend(input.builder());
    }

    /// Adds a template field.
    pub fn template<T: crate::template::Template>(&mut self, name: &'static str, field: &T) {
        self.templates.push(TemplateField { name, sources: field.sources(), shown: field.shown() });
    }

    /// Adds a kind of trigger that the task may defer to: a process that is started later has to know it.
    pub fn trigger<T: Trigger>(&mut self) {
        self.triggers.push(TriggerKind::of::<T>());
    }

    /// Adds an injected resource of type `T`.
    pub fn resource<T: Send + Sync + 'static>(&mut self) {
        self.resources.push(ResourceNeed::of::<T>());
    }
}

/// How the body of an attempt ended well.
#[derive(Debug, Clone)]
pub struct Returned {
    /// The result, unless it is nothing.
    pub value: Option<Arc<XComValue>>,
}

impl Returned {
    /// The result of a task body as it is stored.
    ///
    /// # Errors
    ///
    /// [`TaskError::Fail`] if it is no JSON or too large.
    pub fn encode<T: Data>(cx: &TaskContext, output: &T) -> Result<Self> {
        if !cx.pushes_result() {
            return Ok(Self { value: None });
        }
        let value = XComValue::encode(RETURN_VALUE, output, cx.xcom_limit()).map_err(TaskError::from)?;
        Ok(Self { value: is_stored::<T>(&value).then_some(value) })
    }
}

/// An operator without its type: what a compiled dag holds.
#[async_trait]
pub trait AnyOperator: Send + Sync {
    /// The name of its kind.
    fn name(&self) -> &'static str;

    /// The colour of its box, if its kind has one.
    fn color(&self) -> Option<&'static str>;

    /// The operator's own type.
    fn operator_type(&self) -> TypeId;

    /// The name of its output type, as the compiler prints it.
    fn output_type(&self) -> &'static str;

    /// What it takes, renders and needs.
    fn description(&self) -> Description;

    /// Renders the template fields and shows them.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if a field cannot be rendered.
    fn render(&self, renderer: &Renderer) -> Result<Vec<TemplateField>, TemplateError>;

    /// Renders, executes, and encodes the result.
    ///
    /// # Errors
    ///
    /// [`TaskError`] as the body or the encoding says.
    async fn run(&self, cx: &TaskContext) -> Result<Returned>;

    /// Passes the news that the attempt is being stopped to the operator.
    async fn killed(&self, cx: &TaskContext);

    /// Whether the operator does nothing, so that it needs no executor.
    fn is_empty(&self) -> bool;

    /// Whether the operator is a sensor.
    fn is_sensor(&self) -> bool;

    /// The wait of a sensor that is deferred: pokes until it is ready.
    ///
    /// # Errors
    ///
    /// [`TaskError`] as the sensor says.
    async fn watch(&self, cx: &TaskContext) -> Result<Returned>;
}

/// Wraps an operator so that its type disappears.
pub(crate) fn erase<O: Operator>(operator: O) -> Arc<dyn AnyOperator> {
    Arc::new(Erased(operator))
}

struct Erased<O>(O);

#[async_trait]
impl<O: Operator> AnyOperator for Erased<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn color(&self) -> Option<&'static str> {
        O::COLOR
    }

    fn operator_type(&self) -> TypeId {
        TypeId::of::<O>()
    }

    fn output_type(&self) -> &'static str {
        std::any::type_name::<O::Output>()
    }

    fn description(&self) -> Description {
        let mut description = Description::default();
        self.0.describe(&mut description);
        description
    }

    fn render(&self, renderer: &Renderer) -> Result<Vec<TemplateField>, TemplateError> {
        let mut description = Description::default();
        match self.0.rendered(renderer)? {
            Some(rendered) => rendered.describe(&mut description),
            None => self.0.describe(&mut description),
        }
        Ok(description.templates)
    }

    async fn run(&self, cx: &TaskContext) -> Result<Returned> {
        let rendered = self.rendered(cx)?;
        let operator = rendered.as_ref().unwrap_or(&self.0);
        let output = match cx.resumed() {
            Some(resumed) => operator.resume(cx, resumed).await?,
            None => operator.execute(cx).await?,
        };
        Returned::encode(cx, &output)
    }

    async fn killed(&self, cx: &TaskContext) {
        self.0.on_kill(cx).await;
    }

    fn is_empty(&self) -> bool {
        TypeId::of::<O>() == TypeId::of::<Empty>()
    }

    fn is_sensor(&self) -> bool {
        O::IS_SENSOR
    }

    async fn watch(&self, cx: &TaskContext) -> Result<Returned> {
        let rendered = self.rendered(cx)?;
        let output = sensor::watch_deferred(rendered.as_ref().unwrap_or(&self.0), cx).await?;
        Returned::encode(cx, &output)
    }
}

impl<O: Operator> Erased<O> {
    /// A copy with its template fields rendered, if it has any.
    fn rendered(&self, cx: &TaskContext) -> Result<Option<O>> {
        let rendered = if cx.has_templates() { self.0.rendered(cx.renderer())? } else { None };
        if let Some(rendered) = &rendered {
            let mut description = Description::default();
            rendered.describe(&mut description);
            cx.note_rendered(&description.templates);
        }
        Ok(rendered)
    }
}

/// Does nothing: a point where paths meet or part. Needs no executor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Empty;

impl Empty {
    /// A task that does nothing; give it an id with `.id(..)`.
    pub fn new() -> Self {
        Self
    }
}

impl Operator for Empty {
    type Output = ();
    const NAME: &'static str = "empty";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, _: &TaskContext) -> Result<()> {
        Ok(())
    }
}

/// The triggers that every task knows.
pub(crate) fn builtin_triggers() -> Vec<TriggerKind> {
    vec![TriggerKind::of::<crate::builtin::RunEnds>()]
}

/// Runs blocking code on a thread of its own, so that it does not hold up others.
///
/// # Errors
///
/// What the code returns.
///
/// # Panics
///
/// If the code panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(TaskError::msg("the runtime is shutting down")),
        },
    }
}
