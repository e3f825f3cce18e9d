use airflow::prelude::*;

#[derive(Serialize, Deserialize, Branch)]
enum Load {
    Full,
    Nothing,
}

#[task]
async fn choose() -> Result<Load> {
    Ok(Load::Full)
}

#[task]
async fn load() {}

#[dag]
fn nightly(d: &Dag) {
    let load = d.add(load::call());
    d.branch(d.add(choose::call()), |way| match way {
        Load::Full => load.into(),
    });
}

fn main() {}
