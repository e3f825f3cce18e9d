use airflow::prelude::*;

#[sensor(mode = "rescheduled")]
async fn arrived() -> Result<bool> {
    Ok(true)
}

#[derive(Operator)]
#[operator(poke_interval = "1m")]
struct Plain;

impl Execute for Plain {
    type Output = ();

    async fn execute(&self, _: &TaskContext) -> Result<()> {
        Ok(())
    }
}

#[task]
async fn work() -> Result<()> {
    Ok(())
}

fn dag() -> DagDef {
    DagDef::new("d").define(|d| {
        d.add(work::call().reschedule());
    })
}

fn main() {}
