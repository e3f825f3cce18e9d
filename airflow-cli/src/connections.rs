//! `connections`: how tasks reach systems outside.
//!
//! Airflow's `create-default-connections` is missing: it fills the list with samples that nobody reaches. So is `test`:
//! what a connection means is known to the code of the tasks alone.

use std::path::{Path, PathBuf};

use airflow_core::app::suggestion;
use airflow_core::connection::Connection;
use airflow_core::mask::Masker;
use airflow_core::secret::HIDDEN;
use airflow_core::secrets::{Vault, connections_of_file};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::output::{Cell, OutputArg, Table, row};
use crate::variables::Existing;

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionsCommand {
    /// List all connections of the database; passwords and sensitive fields are hidden
    List {
        /// Only this connection
        #[arg(long)]
        conn_id: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show a connection wherever it comes from, with its secrets
    Get {
        /// Its id
        conn_id: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Create a connection
    Add(Box<AddArgs>),
    /// Delete a connection
    Delete {
        /// Its id
        conn_id: String,
    },
    /// Create the connections of a file: `.json`, or `.env` with one `ID=URI` in a line
    Import {
        /// The file
        file: PathBuf,
        /// Replace connections that exist, instead of leaving them
        #[arg(long)]
        overwrite: bool,
    },
    /// Write all connections with their secrets into a file
    Export {
        /// The file; `-` for standard output
        file: PathBuf,
        /// What to write; without it the end of the file's name decides
        #[arg(long, value_enum)]
        file_format: Option<FileFormat>,
        /// How to write a connection in JSON
        #[arg(long, value_enum, default_value_t = Serialization::Json)]
        serialization_format: Serialization,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// An object of connections by id
    Json,
    /// One `ID=URI` in a line
    Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Serialization {
    /// Its fields
    Json,
    /// Its URI
    Uri,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AddArgs {
    /// Its id
    conn_id: String,
    /// All of it as `type://login:password@host:port/schema?key=value`
    #[arg(long, conflicts_with_all = ["conn_json", "conn_type"])]
    conn_uri: Option<String>,
    /// All of it as JSON
    #[arg(long, conflicts_with = "conn_type")]
    conn_json: Option<String>,
    /// Its type, such as `postgres`
    #[arg(long, required_unless_present_any = ["conn_uri", "conn_json"])]
    conn_type: Option<String>,
    /// What it is for
    #[arg(long)]
    conn_description: Option<String>,
    /// The host
    #[arg(long, requires = "conn_type")]
    conn_host: Option<String>,
    /// The user
    #[arg(long, requires = "conn_type")]
    conn_login: Option<String>,
    /// The password
    #[arg(long, requires = "conn_type")]
    conn_password: Option<String>,
    /// The database, the bucket, the path
    #[arg(long, requires = "conn_type")]
    conn_schema: Option<String>,
    /// The port
    #[arg(long, requires = "conn_type")]
    conn_port: Option<u16>,
    /// Everything else, as a JSON object
    #[arg(long)]
    conn_extra: Option<String>,
    /// What to do if it exists
    #[arg(long, value_enum, default_value_t = Existing::Fail)]
    if_exists: Existing,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: ConnectionsCommand) -> Result<(), CliError> {
    match command {
        ConnectionsCommand::List { conn_id, output } => list(cx, conn_id.as_deref(), output).await,
        ConnectionsCommand::Get { conn_id, output } => get(cx, &conn_id, output).await,
        ConnectionsCommand::Add(args) => add(cx, &args).await,
        ConnectionsCommand::Delete { conn_id } => {
            let vault = cx.vault().await?;
            if !vault.delete_connection(&conn_id).await.map_err(fail)? {
                return Err(unknown(&vault, &conn_id).await?);
            }
            note(cx, "delete_connection", &conn_id).await?;
            Ok(cx.host.line(&format!("deleted connection `{conn_id}`"))?)
        }
        ConnectionsCommand::Import { file, overwrite } => import(cx, &file, overwrite).await,
        ConnectionsCommand::Export { file, file_format, serialization_format } => {
            export(cx, &file, file_format, serialization_format).await
        }
    }
}

pub(crate) fn fail(error: impl std::fmt::Display) -> CliError {
    failed(error.to_string())
}

/// Secrets stay out of the audit log: it names the id only.
async fn note(cx: &mut Cx<'_>, event: &str, conn_id: &str) -> Result<(), CliError> {
    let store = cx.store().await?;
    cx.note(&store, event, About::only(conn_id)).await
}

async fn unknown(vault: &Vault, conn_id: &str) -> Result<CliError, CliError> {
    let known = vault.connections().await.map_err(fail)?;
    let hint = suggestion(conn_id, known.into_iter().map(|conn| conn.conn_id));
    Ok(failed(format!("there is no connection `{conn_id}`{hint}")))
}

const COLUMNS: [&str; 9] =
    ["conn_id", "conn_type", "description", "host", "schema", "login", "password", "port", "extra"];

fn cells(conn: &Connection, masker: Option<&Masker>) -> Vec<Cell> {
    let password = conn.password.as_ref().map(|password| match masker {
        Some(_) => HIDDEN.to_owned(),
        None => password.expose().clone(),
    });
    let extra = conn.extra.as_ref().map(|extra| match masker {
        Some(masker) => {
            let shown = masker.mask_json("extra", &conn.extra_json()).to_string();
            if conn.extra_json() == Value::Object(Map::new()) { HIDDEN.to_owned() } else { shown }
        }
        None => extra.expose().clone(),
    });
    row![
        conn.conn_id.as_str(),
        conn.conn_type.clone(),
        conn.description.clone(),
        conn.host.clone(),
        conn.schema.clone(),
        conn.login.clone(),
        password,
        conn.port.map(u32::from),
        extra
    ]
}

async fn list(cx: &mut Cx<'_>, conn_id: Option<&str>, output: OutputArg) -> Result<(), CliError> {
    let vault = cx.vault().await?;
    let masker = Masker::new(cx.settings.all.mask_rules());
    let mut table = Table::new(COLUMNS);
    for conn in vault.connections().await.map_err(fail)? {
        if conn_id.is_none_or(|wanted| wanted == conn.conn_id) {
            table.push(cells(&conn, Some(&masker)));
        }
    }
    table.print(cx.host, output)
}

async fn get(cx: &mut Cx<'_>, conn_id: &str, output: OutputArg) -> Result<(), CliError> {
    let secrets = cx.secrets().await?;
    let Some(conn) = secrets.connection(conn_id).await.map_err(fail)? else {
        return Err(unknown(secrets.vault(), conn_id).await?);
    };
    let mut table = Table::new([
        "conn_id",
        "conn_type",
        "description",
        "host",
        "schema",
        "login",
        "password",
        "port",
        "extra",
        "uri",
    ]);
    let mut row = cells(&conn, None);
    row.push(conn.to_uri().into());
    table.push(row);
    table.print_one(cx.host, output)
}

fn of_args(args: &AddArgs) -> Result<Connection, CliError> {
    let id = args.conn_id.as_str();
    let mut conn = match (&args.conn_uri, &args.conn_json) {
        (Some(uri), _) => Connection::from_uri(id, uri).map_err(usage)?,
        (_, Some(json)) => Connection::from_json(id, json).map_err(usage)?,
        _ => Connection::new(id, args.conn_type.clone().unwrap_or_default()),
    };
    let given = args.conn_type.is_some();
    if given {
        conn.host.clone_from(&args.conn_host);
        conn.login.clone_from(&args.conn_login);
        conn.schema.clone_from(&args.conn_schema);
        conn.port = args.conn_port;
        conn = conn.with_password(args.conn_password.clone().unwrap_or_default());
    }
    if let Some(extra) = &args.conn_extra {
        if !serde_json::from_str::<Value>(extra).is_ok_and(|extra| extra.is_object()) {
            return Err(CliError::Usage("`--conn-extra` must be a JSON object".to_owned()));
        }
        conn = conn.with_extra(extra);
    }
    if let Some(description) = &args.conn_description {
        conn = conn.with_description(description);
    }
    Connection::check_id(id).map_err(usage)?;
    Ok(conn)
}

fn usage(error: impl std::fmt::Display) -> CliError {
    CliError::Usage(error.to_string())
}

async fn add(cx: &mut Cx<'_>, args: &AddArgs) -> Result<(), CliError> {
    let conn = of_args(args)?;
    let vault = cx.vault().await?;
    let id = conn.conn_id.clone();
    let exists = vault.connection(&id).await.map_err(fail)?.is_some();
    match args.if_exists {
        Existing::Fail if exists => {
            return Err(failed(format!(
                "connection `{id}` exists already; delete it, or add `--if-exists overwrite`"
            )));
        }
        Existing::Skip if exists => return Ok(cx.host.line(&format!("left connection `{id}` as it was"))?),
        _ => {}
    }
    cx.warn_plain(&vault);
    vault.set_connection(&conn).await.map_err(fail)?;
    note(cx, "set_connection", &id).await?;
    let what = if exists { "replaced" } else { "added" };
    Ok(cx.host.line(&format!("{what} connection `{id}`: {}", shown_uri(&conn)))?)
}

/// The URI without its secrets.
fn shown_uri(conn: &Connection) -> String {
    let mut shown = conn.clone();
    shown.password = None;
    shown.extra = None;
    shown.to_uri()
}

fn is_env(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "env")
}

async fn import(cx: &mut Cx<'_>, file: &Path, overwrite: bool) -> Result<(), CliError> {
    let all = connections_of_file(file).map_err(fail)?;
    let vault = cx.vault().await?;
    cx.warn_plain(&vault);
    let known = vault.connections().await.map_err(fail)?;
    let (mut written, mut left) = (0, 0);
    for (_, conn) in all {
        if !overwrite && known.iter().any(|other| other.conn_id == conn.conn_id) {
            left += 1;
            continue;
        }
        vault.set_connection(&conn).await.map_err(fail)?;
        note(cx, "set_connection", &conn.conn_id).await?;
        written += 1;
    }
    Ok(cx.host.line(&format!("imported {written} connections, left {left} as they were"))?)
}

async fn export(
    cx: &mut Cx<'_>,
    file: &Path,
    format: Option<FileFormat>,
    serialization: Serialization,
) -> Result<(), CliError> {
    let all = cx.vault().await?.connections().await.map_err(fail)?;
    let what = format!("{} connections", all.len());
    let by_end = if is_env(file) { FileFormat::Env } else { FileFormat::Json };
    match format.unwrap_or(by_end) {
        FileFormat::Json => {
            let one = |conn: Connection| match serialization {
                Serialization::Json => (conn.conn_id.clone(), conn.to_json()),
                Serialization::Uri => (conn.conn_id.clone(), conn.to_uri().into()),
            };
            let all: Map<String, Value> = all.into_iter().map(one).collect();
            crate::pools::write_json(cx, file, &all, &what)
        }
        FileFormat::Env => {
            let line = |conn: &Connection| format!("{}={}\n", conn.conn_id, conn.to_uri());
            let lines = all.iter().map(line).collect::<Vec<_>>().concat();
            crate::pools::write_text(cx, file, &lines, &what)
        }
    }
}

/// Encrypts everything again with the first key.
pub(crate) async fn rotate(cx: &mut Cx<'_>) -> Result<(), CliError> {
    let vault = cx.vault().await?;
    if !vault.is_encrypting() {
        return Err(failed("no key is set, so nothing is encrypted; set `core.fernet_key`"));
    }
    let done = vault.rotate().await.map_err(fail)?;
    let store = cx.store().await?;
    cx.note(&store, "rotate_fernet_key", About::only(format!("{} values", done.values))).await?;
    let plain = match done.plain {
        0 => String::new(),
        count => format!("; {count} are plain text, set them again to encrypt them"),
    };
    let line = format!("encrypted {} values with the first key of `core.fernet_key`{plain}", done.values);
    Ok(cx.host.line(&line)?)
}
