//! `dead-letters`: messages of the broker that nobody of ours has sent.

use clap::{Args, Subcommand};

use crate::cx::Cx;
use crate::error::{CliError, failed};
use crate::fields::YesArg;
use crate::output::{OutputArg, Table, row};

/// How many can be there: workers keep fewer.
const ALL: u32 = 100_000;

#[derive(Debug, Subcommand)]
pub(crate) enum LettersCommand {
    /// List messages that workers have set aside, newest first
    List(OutputArg),
    /// Forget some of them, or all
    Delete(DeleteArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeleteArgs {
    /// Their ids
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    yes: YesArg,
}

pub(crate) async fn run(cx: &mut Cx<'_>, command: LettersCommand) -> Result<(), CliError> {
    match command {
        LettersCommand::List(output) => list(cx, output).await,
        LettersCommand::Delete(args) => delete(cx, args).await,
    }
}

async fn list(cx: &mut Cx<'_>, output: OutputArg) -> Result<(), CliError> {
    let mut table = Table::new(["id", "at", "queue", "reason", "key_id", "size", "head", "by"]);
    for letter in cx.store().await?.dead_letters(ALL).await? {
        let (id, key) = (letter.id.as_str(), letter.key_id.as_deref().unwrap_or_default());
        let (queue, reason) = (letter.queue.as_str(), letter.reason.as_str());
        table.push(row![
            id,
            letter.at,
            queue,
            reason,
            key,
            letter.size,
            letter.head.as_str(),
            letter.by.as_str()
        ]);
    }
    table.print(cx.host, output)
}

async fn delete(cx: &mut Cx<'_>, args: DeleteArgs) -> Result<(), CliError> {
    let store = cx.store().await?;
    let ids = if args.all {
        store.dead_letters(ALL).await?.into_iter().map(|letter| letter.id).collect()
    } else {
        args.ids
    };
    args.yes.ask(cx.host, &format!("Forget {} messages that were set aside?", ids.len()))?;
    let (asked, deleted) = (ids.len() as u64, store.delete_dead_letters(ids).await?);
    if deleted < asked {
        return Err(failed(format!(
            "{} of {asked} messages are not there; see `dead-letters list`",
            asked - deleted
        )));
    }
    Ok(cx.host.line(&format!("forgot {deleted} messages"))?)
}
