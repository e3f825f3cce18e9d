//! `db`: the tables, and what has piled up in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use airflow_core::app::CleanOptions;
use airflow_core::store::OldTable;
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
    /// Archive and delete what is old: runs, values, versions of dags, audit entries; the newest run of each dag stays
    Clean(CleanArgs),
    /// Not offered: says how to go back to an older version
    Downgrade(DowngradeArgs),
    /// Not needed: archives are files
    #[command(hide = true)]
    ExportArchived(IgnoredArgs),
    /// Not needed: archives are files
    #[command(hide = true)]
    DropArchived(IgnoredArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CleanArgs {
    /// What ended before this date is deleted
    #[arg(long, value_parser = moment)]
    clean_before_timestamp: DateTime<Utc>,
    /// Only of these tables: `xcom`, `dag_run`, `dag_version`, `asset_event`, `asset_watcher`, `log`, `job`
    #[arg(short, long, value_delimiter = ',', value_parser = table)]
    tables: Vec<OldTable>,
    /// Only of these dags
    #[arg(long, value_delimiter = ',')]
    dag_ids: Vec<String>,
    /// Not of these dags
    #[arg(long, value_delimiter = ',')]
    exclude_dag_ids: Vec<String>,
    /// How many rows are deleted in one transaction
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// Where the rows go before they are deleted, as JSON lines; default `archive` in the home of airflow
    #[arg(long, value_name = "FOLDER", conflicts_with = "skip_archive")]
    archive: Option<PathBuf>,
    /// Keep nothing of what is deleted
    #[arg(long)]
    skip_archive: bool,
    /// Only tell how much would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: YesArg,
    #[command(flatten)]
    output: OutputArg,
}

/// What Airflow's command takes; there is nothing to do with it.
#[derive(Debug, Clone, Args)]
pub(crate) struct DowngradeArgs {
    #[arg(short = 'n', long)]
    to_version: Option<String>,
    #[command(flatten)]
    rest: IgnoredArgs,
}

/// Arguments of commands that only say why they are not there.
#[derive(Debug, Clone, Args)]
pub(crate) struct IgnoredArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    ignored: Vec<String>,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: DbCommand) -> Result<(), CliError> {
    match command {
        DbCommand::Init | DbCommand::Migrate => migrate(cx).await,
        DbCommand::Check(output) => check(cx, output).await,
        DbCommand::Reset(yes) => reset(cx, yes).await,
        DbCommand::Clean(args) => clean(cx, args).await,
        DbCommand::Downgrade(args) => downgrade(cx, &args).await,
        DbCommand::ExportArchived(_) | DbCommand::DropArchived(_) => Err(failed(
            "`db clean` archives to files of JSON lines, not to tables: read or delete those, by default in the folder \
             `archive` in the home of airflow",
        )),
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
    table.push(row!["serves_version", status.serves]);
    let fits = status.fits();
    for (name, value) in status.facts {
        table.push(row![name, value]);
    }
    table.print(cx.host, output)?;
    if status.version < status.needed {
        return Err(failed(format!("the tables are missing or old; run `{} db migrate`", cx.program)));
    }
    Ok(fits?)
}

/// There is no way back: says why, and what to do.
async fn downgrade(cx: &mut Cx<'_>, args: &DowngradeArgs) -> Result<(), CliError> {
    let place = cx.open(false).await?.place();
    let to = args.to_version.as_ref().map_or(String::new(), |version| format!(" to {version}"));
    Err(failed(format!(
        "{place} cannot be taken back{to}: a migration may drop what older versions keep, and undoing it would lose rows \
         in silence. Stop all processes, restore the backup that was made before `{} db migrate`, and start the older \
         program",
        cx.program
    )))
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

/// What Airflow has that goes with another table here.
const PARTS: [(&str, &str); 6] = [
    ("task_instance", "dag_run"),
    ("task_instance_history", "dag_run"),
    ("task_reschedule", "dag_run"),
    ("rendered_task_instance_fields", "dag_run"),
    ("callback_request", "dag_run"),
    ("trigger", "dag_run"),
];

/// Reads the name of a table.
fn table(text: &str) -> Result<OldTable, String> {
    let names = || OldTable::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    text.parse().map_err(|_| match PARTS.iter().find(|(part, _)| *part == text) {
        Some((part, whole)) => format!("what `{part}` is in Airflow is deleted with its run: use `{whole}`"),
        None => format!("there is no table `{text}` that grows old; there are {}", names()),
    })
}

async fn clean(cx: &mut Cx<'_>, args: CleanArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let before = args.clean_before_timestamp;
    let folder = args.archive.unwrap_or_else(|| cx.settings.home.value.join("archive"));
    if !args.dry_run {
        let kept = || format!("and keep it in {}", folder.display());
        let fate = if args.skip_archive { "for good".to_owned() } else { kept() };
        args.yes.ask(cx.host, &format!("Delete what ended before {} {fate}?", rfc3339(before)))?;
    }
    let options = CleanOptions {
        tables: args.tables,
        dags: args.dag_ids.into_iter().map(Into::into).collect(),
        not_dags: args.exclude_dag_ids.into_iter().map(Into::into).collect(),
        batch: args.batch_size,
        dry_run: args.dry_run,
        archive: (!args.skip_archive).then_some(folder),
        ..CleanOptions::before(before)
    };
    let cleaned = airflow_core::app::clean(&*store, &options).await.map_err(|e| failed(e.to_string()))?;
    let mut list = Table::new(["table", if args.dry_run { "would_go" } else { "deleted" }, "archive"]);
    for one in &cleaned {
        let archive = one.archive.as_ref().map(|path| path.display().to_string());
        list.push(row![one.table.as_str(), one.rows, archive]);
    }
    if !args.dry_run {
        let rows: BTreeMap<&str, u64> = cleaned.iter().map(|one| (one.table.as_str(), one.rows)).collect();
        let extra = serde_json::json!({ "before": rfc3339(before), "rows": rows }).to_string();
        cx.note(&store, "db_clean", About::only(extra)).await?;
    }
    list.print(cx.host, args.output)
}
