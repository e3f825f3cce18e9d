//! The arguments of all commands. What belongs to one group of commands stands with that group.

use airflow_core::dag::Isolation;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::assets::AssetsCommand;
use crate::config::ConfigCommand;
use crate::connections::ConnectionsCommand;
use crate::dags::DagsCommand;
use crate::db::DbCommand;
use crate::jobs::JobsCommand;
use crate::letters::LettersCommand;
use crate::output::OutputArg;
use crate::pools::PoolsCommand;
use crate::queues::QueuesCommand;
use crate::roles::{SchedulerArgs, StandaloneArgs};
use crate::tasks::TasksCommand;
use crate::variables::VariablesCommand;
use crate::workers::{WorkerArgs, WorkersCommand};
use crate::xcom::XcomCommand;

const AFTER_HELP: &str = "\
Environment:
  AIRFLOW_HOME                          home of the database and the logs; without it the folder
                                        `airflow_home` in the current directory
  AIRFLOW_CONFIG                        the configuration; default $AIRFLOW_HOME/airflow.cfg
  AIRFLOW__DATABASE__SQL_ALCHEMY_CONN   database, as --database; default $AIRFLOW_HOME/airflow.db
  AIRFLOW__LOGGING__BASE_LOG_FOLDER     task logs; default $AIRFLOW_HOME/logs
  AIRFLOW__LOGGING__LOGGING_LEVEL       DEBUG, INFO, WARNING or ERROR
  AIRFLOW__CORE__PARALLELISM            how many tasks run at once, as --slots
  AIRFLOW__CORE__FERNET_KEY             keys that encrypt connections and variables
  AIRFLOW_CONN_<ID>, AIRFLOW_VAR_<KEY>  connections and variables for tasks
  NO_COLOR                              no colours
`config list` shows every setting, its value and where it comes from.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 75 a role is to be started again.";

/// Workflows: runs them on schedule, and looks after them.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Database: `sqlite:///absolute/path` or a path, `postgres://user:password@host/database`, `mysql://...`
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) database: Option<String>,
    /// Say more: -v for what happens, -vv for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepare the database and run the scheduler with tasks in this process
    Standalone(StandaloneArgs),
    /// Run the scheduler with tasks in this process
    Scheduler(SchedulerArgs),
    /// Take work from queues and run it in this process
    Worker(WorkerArgs),
    /// Workers: who they are and what they run
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// Queues: what waits in them and who takes it
    #[command(subcommand)]
    Queues(QueuesCommand),
    /// Messages of the broker that nobody of ours has sent
    #[command(subcommand)]
    DeadLetters(LettersCommand),
    /// Dags and their runs
    #[command(subcommand)]
    Dags(DagsCommand),
    /// Tasks and their instances
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Assets: data that dags make and wait for
    #[command(subcommand)]
    Assets(AssetsCommand),
    /// Pools: limits on how many tasks run at once
    #[command(subcommand)]
    Pools(PoolsCommand),
    /// Variables: settings that tasks read
    #[command(subcommand)]
    Variables(VariablesCommand),
    /// Connections: how tasks reach systems outside
    #[command(subcommand)]
    Connections(ConnectionsCommand),
    /// Encrypt connections and variables again with the first key
    RotateFernetKey,
    /// Values that tasks handed over
    #[command(subcommand)]
    Xcom(XcomCommand),
    /// The database
    #[command(subcommand)]
    Db(DbCommand),
    /// Look for what is wrong in the database; exit with 1 if something is. Changes nothing
    Doctor(OutputArg),
    /// Whether the database and a scheduler work, as JSON in the shape of Airflow's `/health`; exit with 1 if not
    Health,
    /// Processes that are running
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What this program is and where it keeps things
    Info(OutputArg),
    /// The version of airflow
    Version,
    /// Write completions for a shell to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether tasks run in this process and their log goes to its standard output.
    pub(crate) fn tests_tasks(&self) -> bool {
        matches!(self, Self::Dags(DagsCommand::Test(_)) | Self::Tasks(TasksCommand::Test(_)))
    }

    /// Whether it runs until it is stopped.
    pub(crate) fn is_role(&self) -> bool {
        matches!(self, Self::Standalone(_) | Self::Scheduler(_) | Self::Worker(_))
    }

    /// Where tasks run that do not say.
    pub(crate) fn isolation(&self) -> Isolation {
        match self {
            Self::Standalone(args) => args.run.isolation,
            Self::Scheduler(args) => args.run.isolation,
            _ => Isolation::None,
        }
    }

    /// How many tasks may run at once, if the command says.
    pub(crate) fn slots(&self) -> Option<usize> {
        match self {
            Self::Standalone(args) => args.run.slots,
            Self::Scheduler(args) => args.run.slots,
            _ => None,
        }
    }
}
