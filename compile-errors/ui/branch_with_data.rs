use airflow::prelude::*;

#[derive(Serialize, Deserialize, Branch)]
enum Load {
    Full,
    Some(Vec<String>),
    Range { from: u32 },
}

#[derive(Serialize, Deserialize, Branch)]
struct Struct;

#[derive(Serialize, Deserialize, Branch)]
enum Never {}

#[task]
async fn choose() -> Result<Load> {
    Ok(Load::Full)
}

#[dag]
fn nightly(d: &Dag) {
    d.branch(d.add(choose::call()), |_| Nodes::none());
}

fn main() {}
