//! `config` and `info`: which settings hold, and what this program is.

use airflow_core::app::suggestion;
use airflow_core::config::Source;
use airflow_core::fernet::Fernet;
use clap::Subcommand;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::output::{OutputArg, Table, row};
use crate::roles::live_schedulers;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List every setting, its value and where it comes from; secrets are hidden
    List {
        /// Only settings of this section
        #[arg(long)]
        section: Option<String>,
        /// Only settings that somebody has set
        #[arg(long)]
        changed: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one value, also a secret one
    GetValue {
        /// The section, such as `core`
        section: String,
        /// The option, such as `parallelism`
        option: String,
    },
    /// Look for mistakes in the configuration, and for options that have no effect here
    Lint,
    /// Make a key for `core.fernet_key`
    GenerateFernetKey,
}

struct Effective {
    section: &'static str,
    option: &'static str,
    shown: String,
    source: Source,
    description: &'static str,
}

pub(crate) fn run(cx: &mut Cx<'_>, command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::List { section, changed, output } => {
            let mut table = Table::new(["section", "option", "value", "source", "description"]);
            let wanted = |one: &Effective| {
                section.as_ref().is_none_or(|section| section == one.section)
                    && (!changed || one.source != Source::Default)
            };
            for one in effective(cx).into_iter().filter(wanted) {
                let source = one.source.to_string();
                table.push(row![one.section, one.option, one.shown, source, one.description]);
            }
            table.print(cx.host, output)
        }
        ConfigCommand::GetValue { section, option } => get_value(cx, &section, &option),
        ConfigCommand::Lint => lint(cx),
        ConfigCommand::GenerateFernetKey => {
            let key = Fernet::generate_key().map_err(|error| failed(error.to_string()))?;
            Ok(cx.host.line(&key)?)
        }
    }
}

fn get_value(cx: &mut Cx<'_>, section: &str, option: &str) -> Result<(), CliError> {
    let all = effective(cx);
    let Some(found) = all.iter().find(|one| one.section == section && one.option == option) else {
        let name = format!("{section}.{option}");
        let hint = suggestion(&name, all.iter().map(|one| format!("{}.{}", one.section, one.option)));
        return Err(failed(format!("there is no setting `{name}`{hint}")));
    };
    // Who asks for one value wants the value, secret or not.
    let value = match (section, option) {
        ("core", "home" | "executor") => found.shown.clone(),
        _ => cx.settings.all.text(section, option).to_owned(),
    };
    Ok(cx.host.line(&value)?)
}

fn lint(cx: &mut Cx<'_>) -> Result<(), CliError> {
    let lint = cx.settings.lint.clone();
    for error in &lint.errors {
        cx.host.line(&format!("error: {error}"))?;
    }
    for warning in &lint.warnings {
        cx.host.line(&format!("warning: {warning}"))?;
    }
    match lint.errors.len() {
        0 => Ok(cx.host.line(&format!("no mistakes, {} options without effect", lint.warnings.len()))?),
        count => Err(failed(format!("the configuration has {count} mistakes"))),
    }
}

fn effective(cx: &Cx<'_>) -> Vec<Effective> {
    let settings = &cx.settings;
    let own = |option, shown, source, description| Effective {
        section: "core",
        option,
        shown,
        source,
        description,
    };
    let home = settings.home.value.display().to_string();
    let mut all = vec![own(
        "home",
        home,
        settings.home.source.clone(),
        "folder of the database, the logs and airflow.cfg",
    )];
    all.extend(settings.all.shown().map(|(option, shown, source)| Effective {
        section: option.section,
        option: option.key,
        shown,
        source: source.clone(),
        description: option.what,
    }));
    all
}

/// What this program is and where it keeps things. Works whatever is missing or broken.
pub(crate) async fn info(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    let mut table = Table::new(["property", "value"]);
    table.push(row!["version", env!("CARGO_PKG_VERSION")]);
    table.push(row!["program", cx.program.as_str()]);
    table.push(row!["system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)]);
    table.push(row!["user", cx.actor()]);
    table.push(row!["home", cx.settings.home.value.display().to_string()]);
    let file = cx.settings.config.path().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    table.push(row!["config_file", file]);
    table.push(row!["task_logs", cx.settings.logs().display().to_string()]);
    let dags = match cx.registry() {
        Ok(registry) => registry.len().to_string(),
        Err(_) => "with mistakes; `dags list` shows them".to_owned(),
    };
    table.push(row!["dags", dags]);
    let database = cx.settings.all.shown().find(|(option, ..)| option.key == "sql_alchemy_conn");
    table.push(row!["database", database.map(|(_, shown, _)| shown).unwrap_or_default()]);
    let state = match cx.store().await {
        Ok(store) => {
            for (name, value) in store.check().await?.facts {
                table.push(row![format!("database_{name}"), value]);
            }
            format!("ready, {} schedulers alive", live_schedulers(&store).await?.len())
        }
        Err(error) => error.to_string(),
    };
    table.push(row!["database_state", state]);
    table.print(cx.host, output)
}
