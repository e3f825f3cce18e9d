//! `variables`: settings that tasks read.

use std::path::{Path, PathBuf};

use airflow_core::app::suggestion;
use airflow_core::secrets::Vault;
use clap::{Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::connections::fail;
use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::output::{OutputArg, Table, row};
use crate::pools::{read_json, write_json};

#[derive(Debug, Subcommand)]
pub(crate) enum VariablesCommand {
    /// List the keys of all variables
    List {
        /// Show the values as well
        #[arg(long)]
        show_values: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show the value of a variable
    Get {
        /// Its key
        key: String,
        /// Read the value as JSON and write it in one form
        #[arg(short, long)]
        json: bool,
        /// What to show if there is no such variable
        #[arg(short, long)]
        default: Option<String>,
    },
    /// Create or change a variable
    Set {
        /// Its key
        key: String,
        /// Its value
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Refuse a value that is no JSON
        #[arg(short, long)]
        json: bool,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a variable
    Delete {
        /// Its key
        key: String,
    },
    /// Create or change the variables of a JSON file
    Import {
        /// The file
        file: PathBuf,
        /// What to do about keys that exist
        #[arg(short, long, value_enum, default_value_t = Existing::Overwrite)]
        action_on_existing_key: Existing,
    },
    /// Write all variables into a JSON file
    Export {
        /// The file; `-` for standard output
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Existing {
    /// Replace them
    Overwrite,
    /// Change nothing at all and fail
    Fail,
    /// Leave them
    Skip,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: VariablesCommand) -> Result<(), CliError> {
    let vault = cx.vault().await?;
    match command {
        VariablesCommand::List { show_values, output } => list(cx, &vault, show_values, output).await,
        VariablesCommand::Get { key, json, default } => get(cx, &vault, &key, json, default).await,
        VariablesCommand::Set { key, value, json, description } => {
            if json {
                serde_json::from_str::<Value>(&value)
                    .map_err(|error| CliError::Usage(format!("the value is no JSON: {error}")))?;
            }
            set(cx, &vault, &key, &value, description.as_deref()).await?;
            Ok(cx.host.line(&format!("variable `{key}` is set"))?)
        }
        VariablesCommand::Delete { key } => {
            if !vault.delete_variable(&key).await.map_err(fail)? {
                return Err(unknown(&vault, &key).await?);
            }
            let store = cx.store().await?;
            cx.note(&store, "delete_variable", About::only(&key)).await?;
            Ok(cx.host.line(&format!("deleted variable `{key}`"))?)
        }
        VariablesCommand::Import { file, action_on_existing_key } => {
            import(cx, &vault, &file, action_on_existing_key).await
        }
        VariablesCommand::Export { file } => {
            let pairs = vault.variables().await.map_err(fail)?.into_iter().map(|row| {
                // A value that is JSON is written as such, so that files stay readable; import undoes it.
                let parsed = serde_json::from_str(&row.value).ok();
                let kept =
                    parsed.filter(|value: &Value| !value.is_string() && is_written_as(value, &row.value));
                (row.key, kept.unwrap_or(Value::String(row.value)))
            });
            let all: Map<String, Value> = pairs.collect();
            write_json(cx, &file, &all, &format!("{} variables", all.len()))
        }
    }
}

/// Whether writing a value gives this very text.
fn is_written_as(value: &Value, text: &str) -> bool {
    serde_json::to_string(value).is_ok_and(|written| written == text)
}

async fn unknown(vault: &Vault, key: &str) -> Result<CliError, CliError> {
    let hint = suggestion(key, vault.variables().await.map_err(fail)?.into_iter().map(|row| row.key));
    Ok(failed(format!("there is no variable `{key}`{hint}")))
}

/// Values may be secret: the audit log names the key only.
async fn set(
    cx: &mut Cx<'_>,
    vault: &Vault,
    key: &str,
    value: &str,
    description: Option<&str>,
) -> Result<(), CliError> {
    vault.set_variable(key, value, description).await.map_err(fail)?;
    let store = cx.store().await?;
    cx.note(&store, "set_variable", About::only(key)).await
}

async fn list(cx: &mut Cx<'_>, vault: &Vault, show_values: bool, output: OutputArg) -> Result<(), CliError> {
    let rows = vault.variables().await.map_err(fail)?;
    let mut table =
        if show_values { Table::new(["key", "value", "description"]) } else { Table::new(["key"]) };
    for variable in rows {
        table.push(if show_values {
            row![variable.key, variable.value, variable.description]
        } else {
            row![variable.key]
        });
    }
    table.print(cx.host, output)
}

async fn get(
    cx: &mut Cx<'_>,
    vault: &Vault,
    key: &str,
    json: bool,
    default: Option<String>,
) -> Result<(), CliError> {
    let secrets = cx.secrets().await?;
    let value = match (secrets.variable(key).await.map_err(fail)?, default) {
        (Some(value), _) => value,
        (None, Some(default)) => default,
        (None, None) => return Err(unknown(vault, key).await?),
    };
    if !json {
        return Ok(cx.host.line(&value)?);
    }
    let value: Value = serde_json::from_str(&value)
        .map_err(|error| failed(format!("the value of `{key}` is no JSON: {error}")))?;
    Ok(cx.host.line(&value.to_string())?)
}

async fn import(cx: &mut Cx<'_>, vault: &Vault, file: &Path, existing: Existing) -> Result<(), CliError> {
    let all: Map<String, Value> = read_json(file)?;
    let known: Vec<String> = vault.variables().await.map_err(fail)?.into_iter().map(|row| row.key).collect();
    if existing == Existing::Fail
        && let Some(key) = all.keys().find(|key| known.contains(key))
    {
        return Err(failed(format!("variable `{key}` exists already; nothing was imported")));
    }
    let (mut written, mut skipped) = (0, 0);
    for (key, value) in all {
        if existing == Existing::Skip && known.contains(&key) {
            skipped += 1;
            continue;
        }
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        set(cx, vault, &key, &value, None).await?;
        written += 1;
    }
    Ok(cx.host.line(&format!("imported {written} variables, left {skipped} as they were"))?)
}
