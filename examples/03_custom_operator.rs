//! An operator of your own: a struct whose fields are its arguments.
//!
//! Write one where a task needs templates, inputs in fields, or a name of its own in a library. For everything else a
//! `#[task]` function is shorter.
//!
//! `cargo run --example 03_custom_operator`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Mutex;

use airflow::prelude::*;

/// Stands for a mail server.
#[derive(Default)]
struct Outbox(Mutex<Vec<String>>);

/// Sends a mail.
#[derive(Operator)]
#[operator(color = "#4a154b", retries = 2, needs(Outbox))]
struct SendMail {
    /// Rendered before the task runs: `{{ ds }}` is the date that the run is about.
    #[template]
    subject: String,
    /// From upstream, or a constant.
    #[input]
    total: In<i64>,
    to: &'static str,
}

impl SendMail {
    fn new(to: &'static str, total: impl IntoIn<i64>) -> Self {
        Self { subject: "Sales".into(), total: total.into_in(), to }
    }

    fn subject(self, text: &str) -> Self {
        Self { subject: text.into(), ..self }
    }
}

impl Execute for SendMail {
    type Output = usize;

    async fn execute(&self, cx: &TaskContext) -> Result<usize> {
        let mail = format!("to {}: {}: {}", self.to, self.subject, self.total.get(cx)?);
        let mut sent = cx.resource::<Outbox>()?.0.lock().expect("no task panics while it sends");
        sent.push(mail);
        Ok(sent.len())
    }
}

#[task]
async fn count() -> Result<i64> {
    Ok(42)
}

#[task]
async fn sent(outbox: &Outbox) -> Result<Vec<String>> {
    Ok(outbox.0.lock().expect("no task panics while it sends").clone())
}

#[dag]
fn daily_sales(d: &Dag) {
    let total = d.add(count::call());
    // Every operator has the options of a task as methods.
    let boss = d.add(SendMail::new("boss", total).id("tell_boss").retries(0));
    let team = d.add(SendMail::new("team", total).subject("{{ dag.dag_id }} of {{ ds }}").id("tell_team"));
    boss >> team >> d.add(sent::call());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .resource(Outbox::default())
        .dag(daily_sales())
        .build()
        .await?;
    let running = airflow.start();
    let run = airflow.trigger("daily_sales").logical_date("2026-03-02T00:00:00Z".parse()?).await?;
    let run = airflow.wait(&run).await?;
    running.stop(secs(5)).await?;

    let sent: Vec<String> = airflow.result(&run, "sent").await?;
    println!("{}", sent.join("\n"));
    assert_eq!(sent, ["to boss: Sales: 42", "to team: daily_sales of 2026-03-02: 42"]);
    Ok(())
}
