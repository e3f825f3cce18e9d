//! `pools`: limits on how many tasks run at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use airflow_core::app::suggestion;
use airflow_core::store::{PoolRow, PoolSpec, SharedStore};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::fields::YesArg;
use crate::output::{OutputArg, Table, row};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolsCommand {
    /// List all pools
    List(OutputArg),
    /// Show one pool
    Get {
        /// The pool
        name: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Create or change a pool
    Set {
        /// The pool
        name: String,
        /// Its slots; -1 = no limit, 0 = nothing starts
        #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
        slots: i32,
        /// What it is for
        #[arg(default_value = "")]
        description: String,
        /// Tasks that wait for an outside event keep their slots
        #[arg(long)]
        include_deferred: bool,
    },
    /// Delete a pool
    Delete {
        /// The pool
        name: String,
        #[command(flatten)]
        yes: YesArg,
    },
    /// Create or change the pools of a JSON file
    Import {
        /// The file
        file: PathBuf,
    },
    /// Write all pools into a JSON file
    Export {
        /// The file; `-` for standard output
        file: PathBuf,
    },
}

/// A pool in a file, in Airflow's words.
#[derive(Debug, Serialize, Deserialize)]
struct PoolInFile {
    slots: i32,
    #[serde(default)]
    description: String,
    #[serde(default)]
    include_deferred: bool,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: PoolsCommand) -> Result<(), CliError> {
    let store = cx.store().await?;
    match command {
        PoolsCommand::List(output) => table(&store.pools().await?).print(cx.host, output),
        PoolsCommand::Get { name, output } => table(&[find(&store, &name).await?]).print(cx.host, output),
        PoolsCommand::Set { name, slots, description, include_deferred } => {
            let pool = PoolSpec { name, slots, description, include_deferred };
            set(cx, &store, pool).await
        }
        PoolsCommand::Delete { name, yes } => {
            find(&store, &name).await?;
            yes.ask(cx.host, &format!("Delete pool `{name}`? Tasks that name it will not start."))?;
            store.delete_pool(&name).await?;
            cx.note(&store, "delete_pool", About::only(&name)).await?;
            Ok(cx.host.line(&format!("deleted pool `{name}`"))?)
        }
        PoolsCommand::Import { file } => import(cx, &store, &file).await,
        PoolsCommand::Export { file } => export(cx, &store, &file).await,
    }
}

async fn set(cx: &mut Cx<'_>, store: &SharedStore, pool: PoolSpec) -> Result<(), CliError> {
    let extra = serde_json::to_string(&pool)?;
    let line = format!("pool `{}` has {} slots", pool.name, pool.slots);
    store.set_pool(pool).await?;
    cx.note(store, "set_pool", About::only(extra)).await?;
    Ok(cx.host.line(&line)?)
}

async fn find(store: &SharedStore, name: &str) -> Result<PoolRow, CliError> {
    let pools = store.pools().await?;
    let hint = suggestion(name, pools.iter().map(|pool| pool.spec.name.clone()));
    let found = pools.into_iter().find(|pool| pool.spec.name == name);
    found.ok_or_else(|| failed(format!("there is no pool `{name}`{hint}")))
}

fn table(pools: &[PoolRow]) -> Table {
    let mut table = Table::new(["pool", "slots", "used", "deferred", "description", "include_deferred"]);
    for pool in pools {
        let spec = &pool.spec;
        let description = spec.description.as_str();
        table.push(row![
            spec.name.as_str(),
            spec.slots,
            pool.used,
            pool.deferred,
            description,
            spec.include_deferred
        ]);
    }
    table
}

async fn import(cx: &mut Cx<'_>, store: &SharedStore, file: &Path) -> Result<(), CliError> {
    let pools: BTreeMap<String, PoolInFile> = read_json(file)?;
    if let Some((name, pool)) = pools.iter().find(|(_, pool)| pool.slots < -1) {
        return Err(failed(format!("pool `{name}` has {} slots; -1 means no limit", pool.slots)));
    }
    for (name, pool) in pools {
        let PoolInFile { slots, description, include_deferred } = pool;
        set(cx, store, PoolSpec { name, slots, description, include_deferred }).await?;
    }
    Ok(())
}

async fn export(cx: &mut Cx<'_>, store: &SharedStore, file: &Path) -> Result<(), CliError> {
    let in_file = |pool: PoolRow| {
        let PoolSpec { name, slots, description, include_deferred } = pool.spec;
        (name, PoolInFile { slots, description, include_deferred })
    };
    let pools: BTreeMap<String, PoolInFile> = store.pools().await?.into_iter().map(in_file).collect();
    write_json(cx, file, &pools, &format!("{} pools", pools.len()))
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, CliError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("cannot read {}: {error}", file.display())))
}

/// Writes a JSON file, or to standard output if it is called `-`.
pub(crate) fn write_json<T: Serialize>(
    cx: &mut Cx<'_>,
    file: &Path,
    value: &T,
    what: &str,
) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    write_text(cx, file, &text, what)
}

/// Writes a text file, or to standard output if it is called `-`.
pub(crate) fn write_text(cx: &mut Cx<'_>, file: &Path, text: &str, what: &str) -> Result<(), CliError> {
    if file == Path::new("-") {
        return Ok(cx.host.raw(text)?);
    }
    std::fs::write(file, text)
        .map_err(|error| failed(format!("cannot write {}: {error}", file.display())))?;
    Ok(cx.host.line(&format!("wrote {what} to {}", file.display()))?)
}
