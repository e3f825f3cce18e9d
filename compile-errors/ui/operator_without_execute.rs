use airflow::prelude::*;

#[derive(Operator)]
struct SlackPost {
    #[template]
    text: String,
    total: In<i64>,
}

#[dag]
fn sales(d: &Dag) {
    d.add(SlackPost { text: "hi".into(), total: 1.into_in() });
}

fn main() {}
