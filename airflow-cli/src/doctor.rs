//! `doctor`: whether the database is as the engine leaves it.

use airflow_core::app::{Severity, doctor};
use airflow_core::time::SystemClock;

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::output::{Format, OutputArg, Table, row};

pub(crate) async fn run(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    let store = cx.open(false).await?;
    let checkup = doctor(&*store, &SystemClock).await?;
    if checkup.findings.is_empty() && matches!(output.output, Format::Table) {
        return Ok(cx.host.line(&format!("{} is as it should be", store.place()))?);
    }
    let mut table = Table::new(["severity", "check", "place", "found", "cure"]);
    for finding in &checkup.findings {
        let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
        let (place, found, cure) = (finding.place.as_str(), finding.found.as_str(), finding.cure.as_str());
        table.push(row![severity, finding.check, place, found, cure]);
    }
    table.print(cx.host, output)?;
    for (check, more) in &checkup.more {
        cx.host.note(&format!("and {more} more of `{check}`"));
    }
    if checkup.is_sound() {
        return Ok(());
    }
    let errors = checkup.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    Err(failed(format!(
        "{errors} {} found in {}",
        if errors == 1 { "error was" } else { "errors were" },
        store.place()
    )))
}
