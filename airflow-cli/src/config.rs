//! `config` and `info`: which settings hold, and what this program is.

use clap::Subcommand;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::output::{OutputArg, Table, row};
use crate::roles::live_schedulers;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List every setting, its value and where it comes from
    List {
        /// Only settings of this section
        #[arg(long)]
        section: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one value
    GetValue {
        /// The section, such as `core`
        section: String,
        /// The option, such as `parallelism`
        option: String,
    },
}

struct Effective {
    section: &'static str,
    option: &'static str,
    value: String,
    source: String,
}

pub(crate) fn run(cx: &mut Cx<'_>, command: ConfigCommand) -> Result<(), CliError> {
    let all = effective(cx);
    match command {
        ConfigCommand::List { section, output } => {
            let mut table = Table::new(["section", "option", "value", "source"]);
            let wanted = |one: &&Effective| section.as_ref().is_none_or(|section| section == one.section);
            for one in all.iter().filter(wanted) {
                table.push(row![one.section, one.option, one.value.as_str(), one.source.as_str()]);
            }
            table.print(cx.host, output)
        }
        ConfigCommand::GetValue { section, option } => {
            let found = all.iter().find(|one| one.section == section && one.option == option);
            let Some(found) = found else {
                let names = all.iter().map(|one| format!("{}.{}", one.section, one.option));
                let name = format!("{section}.{option}");
                let hint = airflow_core::app::suggestion(&name, names);
                return Err(failed(format!("there is no setting `{name}`{hint}")));
            };
            Ok(cx.host.line(&found.value)?)
        }
    }
}

fn effective(cx: &Cx<'_>) -> Vec<Effective> {
    let settings = &cx.settings;
    let one = |section, option, value: String, source: &crate::home::Source| Effective {
        section,
        option,
        value,
        source: source.text(),
    };
    let (logs, slots) = (&settings.logs, &settings.slots);
    let brings_executor = cx.builder().has_executor();
    let level = crate::home::variable("logging", "logging_level");
    let (level, level_source) = match cx.host.env(&level) {
        Some(set) => (set.to_owned(), crate::home::Source::Env(level)),
        None => ("INFO".to_owned(), crate::home::Source::Default),
    };
    vec![
        one("core", "home", settings.home.value.display().to_string(), &settings.home.source),
        if brings_executor {
            one("core", "executor", "of the program".to_owned(), &crate::home::Source::Program)
        } else {
            one("core", "executor", "LocalExecutor".to_owned(), &crate::home::Source::Default)
        },
        one("core", "parallelism", slots.value.to_string(), &slots.source),
        one(
            "core",
            "dags_are_paused_at_creation",
            settings.paused_at_creation.value.to_string(),
            &settings.paused_at_creation.source,
        ),
        one(
            "core",
            "max_map_length",
            settings.max_map_length.value.to_string(),
            &settings.max_map_length.source,
        ),
        one(
            "database",
            "sql_alchemy_conn",
            without_password(&settings.database.value),
            &settings.database.source,
        ),
        one("logging", "base_log_folder", logs.value.display().to_string(), &logs.source),
        one("logging", "logging_level", level, &level_source),
        one(
            "scheduler",
            "use_job_schedule",
            settings.use_schedules.value.to_string(),
            &settings.use_schedules.source,
        ),
    ]
}

/// An address with `***` for the password.
fn without_password(address: &str) -> String {
    let parts = || {
        let (scheme, rest) = address.split_once("://")?;
        let (login, place) = rest.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    parts().unwrap_or_else(|| address.to_owned())
}

/// What this program is and where it keeps things. Works whatever is missing or broken.
pub(crate) async fn info(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    let mut table = Table::new(["property", "value"]);
    table.push(row!["version", env!("CARGO_PKG_VERSION")]);
    table.push(row!["program", cx.program.as_str()]);
    table.push(row!["system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)]);
    table.push(row!["user", cx.actor()]);
    table.push(row!["home", cx.settings.home.value.display().to_string()]);
    table.push(row!["task_logs", cx.settings.logs.value.display().to_string()]);
    let dags = match cx.registry() {
        Ok(registry) => registry.len().to_string(),
        Err(_) => "with mistakes; `dags list` shows them".to_owned(),
    };
    table.push(row!["dags", dags]);
    table.push(row!["database", without_password(&cx.settings.database.value)]);
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

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        for (address, shown) in [
            ("postgres://me:p@ss:w@host:5/db?x=1", "postgres://me:***@host:5/db?x=1"),
            ("mysql://me@host/db", "mysql://me@host/db"),
            ("sqlite:///a/b.db", "sqlite:///a/b.db"),
            ("a.db", "a.db"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}
