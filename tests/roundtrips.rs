//! What is written can be read: whole dags, values, connections, configurations and waits come back as they were.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};

use airflow::config::Config;
use airflow::connection::Connection;
use airflow::operator::{Deferred, Wait};
use airflow::prelude::*;
use airflow::xcom::XComValue;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Any JSON, with all finite floats, deep and wide enough to matter.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6).prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

fn filled() -> impl Strategy<Value = String> {
    any::<String>().prop_filter("what is empty is not there", |text| !text.is_empty())
}

/// A connection of which every field says something, or is not there.
fn connection() -> impl Strategy<Value = Connection> {
    let flat = btree_map(filled(), any::<String>(), 1..5)
        .prop_map(|fields| fields.into_iter().map(|(name, text)| (name, Value::from(text))).collect());
    let deep = vec((filled(), json()), 1..5).prop_map(|fields| fields.into_iter().collect::<Map<_, _>>());
    let extra = prop_oneof![flat, deep];
    // What a URI cannot hold is left out: a host in capitals, the port 0.
    let head =
        ("[a-z][a-z0-9_]{0,10}", "[a-z0-9][a-z0-9.-]{0,20}", option::of(filled()), option::of(filled()));
    let tail = (option::of(filled()), option::of(1..=u16::MAX), option::of(extra));
    (head, tail).prop_map(|((kind, host, login, password), (schema, port, extra))| {
        let mut conn = Connection::new("c", kind).with_host(host);
        conn.login = login;
        conn.schema = schema;
        conn.port = port;
        if let Some(password) = password {
            conn = conn.with_password(password);
        }
        match extra {
            Some(extra) => conn.with_extra_json(&Value::Object(extra)),
            None => conn,
        }
    })
}

/// All of a connection that can be compared.
fn parts(conn: &Connection) -> Value {
    let mut parts = conn.to_json();
    // Names that mean the same.
    if parts["conn_type"] == "postgresql" {
        parts["conn_type"] = "postgres".into();
    }
    // A URI has a place for each part, and does not tell an empty one from none.
    if let Value::Object(fields) = &mut parts {
        fields.retain(|_, value| value != "");
    }
    parts
}

fn moment() -> impl Strategy<Value = DateTime<Utc>> {
    // Whole microseconds of the years that every store keeps.
    (-30_000_000_000_000_000..200_000_000_000_000_000_i64)
        .prop_map(|at| DateTime::from_timestamp_micros(at).unwrap())
}

fn deferred() -> impl Strategy<Value = Deferred> {
    (any::<String>(), json(), any::<String>(), json(), moment(), option::of(moment())).prop_map(
        |(kind, args, method, kwargs, at, until)| Deferred { kind, args, method, kwargs, at, until },
    )
}

fn wait() -> impl Strategy<Value = Wait> {
    let resumed = (deferred(), json()).prop_map(|(deferred, event)| Resumed::new(&deferred, event));
    (option::of(moment()), any::<u32>(), option::of(deferred()), option::of(resumed))
        .prop_map(|(since, pokes, deferred, resumed)| Wait { since, pokes, deferred, resumed })
}

/// The words of a configuration: any printable text that no other rule of the file takes for itself.
fn setting() -> impl Strategy<Value = String> {
    "[!-#%-}][ -#%-}]{0,20}[!-#%-}]|[!-#%-}]"
}

/// A dag by its edges: from a task to later ones.
fn edges() -> impl Strategy<Value = (usize, BTreeSet<(usize, usize)>)> {
    (2..12_usize).prop_flat_map(|tasks| {
        let edge = (0..tasks - 1).prop_flat_map(move |from| (Just(from), from + 1..tasks));
        (Just(tasks), btree_set(edge, 0..20))
    })
}

fn dag(tasks: usize, edges: &BTreeSet<(usize, usize)>, retries: u32) -> DagDef {
    DagDef::new("d").tags(["a", "b"]).define(|d| {
        let nodes: Vec<_> =
            (0..tasks).map(|n| d.add(Empty::new().id(format!("t{n}")).retries(retries)).node()).collect();
        for (from, to) in edges {
            d.order(nodes[*from] >> nodes[*to]);
        }
    })
}

proptest! {
    #[test]
    fn values_come_back_as_they_were(value in json()) {
        let written = XComValue::encode("k", &value, usize::MAX).unwrap();
        let read = XComValue::from_text(written.text());
        prop_assert_eq!(read.value(), &value);
        prop_assert_eq!(read.decode::<Value>().unwrap(), value);
    }

    #[test]
    fn waits_come_back_as_they_were(wait in wait()) {
        let text = serde_json::to_string(&wait).unwrap();
        prop_assert_eq!(serde_json::from_str::<Wait>(&text).unwrap(), wait);
    }

    #[test]
    fn connections_come_back_from_json(conn in connection()) {
        let text = conn.to_json().to_string();
        let read = Connection::from_text("c", &text).unwrap();
        prop_assert_eq!(parts(&read), parts(&conn));
        prop_assert_eq!(read.to_json().to_string(), text);
    }

    #[test]
    fn connections_come_back_from_a_uri(conn in connection()) {
        let uri = conn.to_uri();
        let read = Connection::from_text("c", &uri).unwrap();
        prop_assert_eq!(parts(&read), parts(&conn), "{}", uri);
        prop_assert_eq!(read.to_uri(), uri);
    }

    #[test]
    fn configurations_come_back_from_a_file_and_from_the_environment(
        all in btree_map("[a-z][a-z_]{0,8}[a-z]", btree_map("[a-z][a-z0-9_]{0,8}", setting(), 1..5), 1..4),
    ) {
        let mut file = String::new();
        let mut env = BTreeMap::new();
        for (section, options) in &all {
            file += &format!("[{section}]\n");
            for (key, value) in options {
                file += &format!("{key} = {}\n", value.replace('%', "%%"));
                env.insert(Config::env_name(section, key), value.clone());
            }
        }
        let of_file = Config::parse(&file).unwrap();
        let of_env = Config::default().with_env(env);
        for (section, options) in &all {
            for (key, value) in options {
                prop_assert_eq!(&of_file.text(section, key).unwrap(), value, "{}", file);
                prop_assert_eq!(&of_env.text(section, key).unwrap(), value);
            }
        }
    }

    #[test]
    fn the_structure_of_a_dag_tells_its_tasks_and_edges((tasks, edges) in edges(), retries in 0..5_u32) {
        let compiled = dag(tasks, &edges, retries).compile().unwrap();
        let read: Value = serde_json::from_str(&compiled.structure()).unwrap();
        let mut found = BTreeSet::new();
        let number = |id: &Value| id.as_str().unwrap()[1..].parse::<usize>().unwrap();
        for task in read["tasks"].as_array().unwrap() {
            prop_assert_eq!(&task["retries"], &Value::from(retries));
            for to in task["downstream"].as_array().unwrap() {
                found.insert((number(&task["id"]), number(to)));
            }
        }
        prop_assert_eq!(read["tasks"].as_array().unwrap().len(), tasks);
        prop_assert_eq!(&found, &edges);

        // Made again, it is the same version; with another edge or option it is another one.
        let again = dag(tasks, &edges, retries).compile().unwrap();
        prop_assert_eq!(&again.fingerprint, &compiled.fingerprint);
        let mut others = edges.clone();
        if !others.remove(&(0, 1)) {
            others.insert((0, 1));
        }
        for other in [dag(tasks, &others, retries), dag(tasks, &edges, retries + 1), dag(tasks + 1, &edges, retries)] {
            prop_assert_ne!(&other.compile().unwrap().fingerprint, &compiled.fingerprint);
        }
    }
}
