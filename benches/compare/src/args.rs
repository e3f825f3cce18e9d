//! What the command line says, and the orders of one measurement that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// What is measured. The size is the number of what stands in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Tasks in a line (tasks).
    Chain,
    /// One task, then many at once, then one (tasks in the middle).
    Fanout,
    /// a → {b, c, d} → e, all runs at once (runs).
    Diamonds,
}

impl Workload {
    fn usual_size(self) -> usize {
        match self {
            Self::Chain => 1_000,
            Self::Fanout => 10_000,
            Self::Diamonds => 2_000,
        }
    }
}

/// Where everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoreKind {
    /// A PostgreSQL server, in a database of its own.
    Postgres,
    /// A file.
    Sqlite,
}

/// What runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// This crate.
    Airflow,
    /// `dbos`: steps of a workflow.
    Dbos,
    /// `apalis-workflow`: a `GraphFlow`.
    ApalisGraph,
    /// `apalis-workflow`: a `SteppedFlow`, whose steps are known when it is compiled.
    ApalisStepped,
}

impl Engine {
    /// Those that ours is compared with.
    pub(crate) const PEERS: [Self; 3] = [Self::Dbos, Self::ApalisGraph, Self::ApalisStepped];

    /// Whether it can do this at all.
    pub(crate) fn can(self, workload: Workload, store: StoreKind) -> bool {
        match self {
            Self::Airflow | Self::ApalisGraph => true,
            Self::Dbos => store == StoreKind::Postgres,
            // It has no fan-out to steps that differ.
            Self::ApalisStepped => workload != Workload::Diamonds,
        }
    }
}

/// When SQLite calls a commit durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SyncKind {
    /// When the operating system has it.
    Normal,
    /// When the disk has it.
    Full,
}

/// Runs the same workloads on this crate and on others, by turns, and compares.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Args {
    /// What is measured; everything unless something is named.
    #[arg(value_enum)]
    pub(crate) workloads: Vec<Workload>,
    /// Where everything is kept.
    #[arg(long, value_enum, default_value = "postgres")]
    pub(crate) store: StoreKind,
    /// What ours is compared with; everything that can do it unless something is named.
    #[arg(long = "peer", value_enum)]
    pub(crate) peers: Vec<Engine>,
    /// The size: tasks of a chain, tasks in the middle of a fan-out, runs of diamonds.
    #[arg(long)]
    tasks: Option<usize>,
    /// How often each of both is measured, by turns.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
    /// How many tasks run at once.
    #[arg(long, default_value_t = 16)]
    slots: usize,
    /// When SQLite calls a commit durable.
    #[arg(long, value_enum, default_value = "full")]
    sync: SyncKind,
    /// A database of the PostgreSQL server; others are made and dropped beside it.
    #[arg(long, default_value = "postgres://postgres@127.0.0.1:5432/postgres")]
    pub(crate) url: String,
    /// Where the folders for SQLite and for logs are made and removed; the temporary folder unless it is named.
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,
    /// How often a worker of apalis looks for tasks that it was not told of, in milliseconds.
    #[arg(long, default_value_t = 10)]
    poll_ms: u64,
    /// How many tasks a worker of apalis claims at once.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Ours only orders tasks: they wait for each other, but hand no values on.
    #[arg(long)]
    ordered: bool,
    /// After how many seconds a measurement is given up.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Prints one line of JSON a comparison.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Args {
    /// The workloads that were named, or all.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        if self.workloads.is_empty() { Workload::value_variants().to_vec() } else { self.workloads.clone() }
    }

    /// The peers that were named, or all; without those that cannot do it.
    pub(crate) fn peers(&self, workload: Workload) -> Vec<Engine> {
        let named = if self.peers.is_empty() { Engine::PEERS.to_vec() } else { self.peers.clone() };
        named.into_iter().filter(|peer| peer.can(workload, self.store)).collect()
    }

    /// How long a measurement may take, its preparations included.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    /// The orders for one measurement in a place that was made for it.
    pub(crate) fn orders(&self, engine: Engine, workload: Workload, place: &Place) -> Orders {
        Orders {
            engine,
            workload,
            size: self.tasks.unwrap_or_else(|| workload.usual_size()),
            slots: self.slots,
            sync: self.sync,
            poll_ms: self.poll_ms,
            batch: self.batch,
            ordered: self.ordered,
            place: place.clone(),
        }
    }
}

/// A place of one's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Of the database and of the folder.
    pub(crate) name: String,
    /// An empty database of PostgreSQL; nothing of it is there with SQLite.
    pub(crate) url: Option<String>,
    /// An empty folder.
    pub(crate) folder: PathBuf,
}

/// What the process of one measurement is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) engine: Engine,
    pub(crate) workload: Workload,
    pub(crate) size: usize,
    pub(crate) slots: usize,
    pub(crate) sync: SyncKind,
    pub(crate) poll_ms: u64,
    pub(crate) batch: usize,
    pub(crate) ordered: bool,
    pub(crate) place: Place,
}

impl Orders {
    /// How many runs are asked for.
    pub(crate) fn runs(&self) -> usize {
        if self.workload == Workload::Diamonds { self.size } else { 1 }
    }

    /// How many bodies have to run.
    pub(crate) fn tasks(&self) -> usize {
        match self.workload {
            Workload::Chain => self.size,
            Workload::Fanout => self.size + 2,
            Workload::Diamonds => self.size * 5,
        }
    }
}
