//! `db`: the tables, and what has piled up in them.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use crate::cx::{About, Cx};
use crate::error::{CliError, failed};
use crate::fields::{YesArg, moment};
use crate::output::{OutputArg, Table, rfc3339, row};

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// The same as `migrate`
    Init,
    /// Create the tables, or bring them to this version
    Migrate,
    /// Look whether the database can be used
    Check(OutputArg),
    /// Delete everything and create the tables again
    Reset(YesArg),
    /// Delete finished runs and audit entries that are old; the newest run of each dag stays
    Clean(CleanArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CleanArgs {
    /// What ended before this date is deleted
    #[arg(long, value_parser = moment)]
    clean_before_timestamp: DateTime<Utc>,
    /// Only tell how much would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: YesArg,
    #[command(flatten)]
    output: OutputArg,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: DbCommand) -> Result<(), CliError> {
    match command {
        DbCommand::Init | DbCommand::Migrate => migrate(cx).await,
        DbCommand::Check(output) => check(cx, output).await,
        DbCommand::Reset(yes) => reset(cx, yes).await,
        DbCommand::Clean(args) => clean(cx, args).await,
    }
}

async fn migrate(cx: &mut Cx<'_>) -> Result<(), CliError> {
    let store = cx.open(true).await?;
    let done = store.migrate().await?;
    if done.from != done.to {
        cx.note(&store, "db_migrate", About::only(format!("{} to {}", done.from, done.to))).await?;
    }
    let place = store.place();
    cx.host.line(&match done.from {
        0 => format!("created the tables of {place}, schema version {}", done.to),
        from if from == done.to => format!("{place} has schema version {from} already"),
        from => format!("brought {place} from schema version {from} to {}", done.to),
    })?;
    sync_dags(cx).await
}

/// Makes the dags known. Mistakes in them are no obstacle to a migration.
async fn sync_dags(cx: &mut Cx<'_>) -> Result<(), CliError> {
    match cx.registry() {
        Ok(_) => {
            let dags = cx.airflow().await?.sync_dags().await?;
            cx.host.line(&format!("{} dags are known to it", dags.len()))?;
        }
        Err(error) => cx.host.note(&format!("warning: the dags were not made known to it\n{error}")),
    }
    Ok(())
}

async fn check(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    let store = cx.open(false).await?;
    let status = store.check().await?;
    let mut table = Table::new(["property", "value"]);
    table.push(row!["kind", store.kind()]);
    table.push(row!["place", store.place()]);
    table.push(row!["schema_version", status.version]);
    table.push(row!["needed_version", status.needed]);
    for (name, value) in status.facts {
        table.push(row![name, value]);
    }
    table.print(cx.host, output)?;
    if status.version < status.needed {
        return Err(failed(format!("the tables are missing or old; run `{} db migrate`", cx.program)));
    }
    Ok(())
}

async fn reset(cx: &mut Cx<'_>, yes: YesArg) -> Result<(), CliError> {
    let store = cx.open(true).await?;
    let place = store.place();
    yes.ask(cx.host, &format!("Delete everything in {place}?"))?;
    store.reset().await?;
    cx.note(&store, "db_reset", About::default()).await?;
    cx.host.line(&format!("{place} is empty"))?;
    sync_dags(cx).await
}

async fn clean(cx: &mut Cx<'_>, args: CleanArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let before = args.clean_before_timestamp;
    if !args.dry_run {
        args.yes.ask(cx.host, &format!("Delete what ended before {}?", rfc3339(before)))?;
    }
    let counts = store.clean(before, args.dry_run).await?;
    let mut table = Table::new(["table", if args.dry_run { "would_go" } else { "deleted" }]);
    for (name, count) in &counts {
        table.push(row![name.as_str(), *count]);
    }
    if !args.dry_run {
        let extra = serde_json::json!({ "before": rfc3339(before), "rows": counts }).to_string();
        cx.note(&store, "db_clean", About::only(extra)).await?;
    }
    table.print(cx.host, args.output)
}
