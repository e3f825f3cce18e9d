use airflow::connection::ConnectionError;
use airflow::prelude::*;

struct Slack;

impl ConnectionKind for Slack {
    const TYPES: &'static [&'static str] = &["slack"];

    fn read(_: &Connection) -> std::result::Result<Self, ConnectionError> {
        Ok(Slack)
    }
}

#[task]
async fn owned(team: Conn<Slack>) -> Result<()> {
    let _ = team;
    Ok(())
}

#[task]
async fn no_text(#[conn(team)] slack: &Conn<Slack>) -> Result<()> {
    let _ = slack;
    Ok(())
}

#[task]
async fn nameless(Conn { .. }: &Conn<Slack>) -> Result<()> {
    Ok(())
}

#[task]
async fn elsewhere(#[conn("team")] orders: Vec<i64>) -> Result<()> {
    let _ = orders;
    Ok(())
}

struct NoKind;

#[task]
async fn no_kind(team: &Conn<NoKind>) -> Result<()> {
    let _ = team.raw();
    Ok(())
}

fn main() {}
