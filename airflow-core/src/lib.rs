//! The engine of `airflow`: definition, compilation, decisions, store, scheduler and attempts.
//!
//! Use it through the `airflow` crate. A module here uses only what stands beside or above it in this list:
//!
//! - [`id`], [`time`], [`secret`], [`mask`], [`fernet`]: words;
//! - [`state`]: what may become of task instances and runs;
//! - [`asset`], [`dag`], [`operator`], [`timetable`], [`template`], [`trigger_rule`], [`retry`], [`xcom`], [`callback`],
//!   [`connection`], [`config`]: definitions;
//! - [`compile`], [`registry`], [`discovery`]: checked definitions;
//! - [`store`]: the contract of what keeps the state; [`secrets`]: connections and variables, wherever they are;
//! - [`plan`]: one run in memory, and a change of it;
//! - [`decide`]: what should happen;
//! - [`executor`]: the contract of what runs attempts;
//! - the stores, [`scheduler`], [`attempt`]: all input and output;
//! - [`app`]: the application;
//! - [`testing`]: the test kit.

pub mod app;
pub mod asset;
pub mod attempt;
pub mod builtin;
pub mod callback;
pub mod compile;
pub mod config;
pub mod connection;
pub mod dag;
pub mod executor;
pub mod fernet;
mod hash;
mod host;
pub mod id;
mod map;
pub mod mask;
pub mod operator;
pub mod plan;
pub mod registry;
pub mod retry;
pub mod scheduler;
pub mod secret;
pub mod secrets;
mod shipping;
pub mod state;
pub mod store;
pub mod template;
pub mod testing;
pub mod time;
pub mod timetable;
pub mod trigger_rule;
pub mod xcom;

pub mod decide;
pub mod discovery;

/// What the macros write refers to. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use std::time::Duration;

    pub use inventory;
    pub use serde_json;

    pub use crate::dag::{Dag, DagDef, IntoSpec, IsSensor, Isolation, Role, Spec, TaskOptions};
    pub use crate::discovery::DiscoveredDag;
    pub use crate::operator::{
        Branch, Description, Execute, In, IntoIn, Operator, Params, Poke, PokeReturn, Result, Resumed,
        Sensor, SensorMode, TaskContext, TaskError, TaskReturn, blocking, watch,
    };
    pub use crate::template::{Renderer, Template, TemplateError};
    pub use crate::time::parse_duration;
    pub use crate::trigger_rule::{TriggerRule, WeightRule};
    pub use crate::xcom::{Data, Stored};
}
