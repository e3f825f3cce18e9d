use std::sync::Arc;

use super::*;
use crate::fernet::Fernet;
use crate::store::{MemoryStore, SharedStore};

fn vault(store: &SharedStore, keys: &str) -> Vault {
    Vault::new(Arc::clone(store), Fernet::new(keys).expect("keys"))
}

fn key() -> String {
    Fernet::generate_key().expect("random bytes")
}

fn environment(pairs: &[(&str, &str)]) -> EnvironmentSecrets {
    EnvironmentSecrets::of(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

fn warehouse() -> Connection {
    Connection::new("warehouse", "postgres")
        .with_host("db")
        .with_login("etl")
        .with_password("p@ssw\u{f6}rd")
        .with_extra(r#"{"sslmode": "require", "token": "t0ken-1"}"#)
}

/// Goal: whoever reads the database reads no secret, and what was written comes back. Method: look at the rows.
#[tokio::test]
async fn secrets_are_encrypted_in_the_store_and_readable_with_the_key() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let vault = vault(&store, &key());
    vault.set_connection(&warehouse()).await.expect("kept");
    vault.set_variable("region", "eu-west-1", Some("where")).await.expect("kept");
    let row = store.connection("warehouse").await.expect("a store").expect("a row");
    assert!(row.is_encrypted && row.is_extra_encrypted && row.login.as_deref() == Some("etl"));
    let variable = store.variable("region").await.expect("a store").expect("a row");
    for text in [row.password, row.extra, Some(variable.value)] {
        let text = text.expect("a token");
        assert!(text.starts_with("gAAAA"), "{text}");
    }
    assert_eq!(vault.connection("warehouse").await.expect("readable"), Some(warehouse()));
    let variable = vault.variable("region").await.expect("readable").expect("a variable");
    assert_eq!((variable.value.as_str(), variable.description.as_deref()), ("eu-west-1", Some("where")));
}

#[tokio::test]
async fn another_key_and_no_key_say_what_is_missing() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    vault(&store, &key()).set_variable("v", "x", None).await.expect("kept");
    let wrong = vault(&store, &key()).variable("v").await.expect_err("another key").to_string();
    assert!(wrong.contains("the variable `v`: the value cannot be decrypted"), "{wrong}");
    let none = vault(&store, "").variable("v").await.expect_err("no key").to_string();
    assert!(none.contains("`v` is encrypted, but no key is set; set `core.fernet_key`"), "{none}");
}

/// Goal: after a rotation the old key is not needed any more, and nothing that was plain text has changed.
#[tokio::test]
async fn a_rotation_leaves_nothing_that_needs_the_old_key() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    vault(&store, "").set_variable("plain", "text", None).await.expect("kept");
    let (old, new) = (key(), key());
    let before = vault(&store, &old);
    before.set_connection(&warehouse()).await.expect("kept");
    before.set_variable("v", "x", None).await.expect("kept");
    let done = vault(&store, &format!("{new},{old}")).rotate().await.expect("rotated");
    assert_eq!(done, Rotated { values: 3, plain: 1, changed: 0 });
    let after = vault(&store, &new);
    assert_eq!(after.connection("warehouse").await.expect("readable"), Some(warehouse()));
    assert_eq!(after.variables().await.expect("readable").len(), 2);
    let refused = vault(&store, &key()).rotate().await.expect_err("no key fits").to_string();
    assert!(refused.contains("cannot be decrypted"), "{refused}");
    assert!(after.variable("v").await.is_ok(), "a rotation that is refused changes nothing");
}

#[tokio::test]
async fn names_that_cannot_be_kept_are_refused() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let vault = vault(&store, "");
    let wrong = vault.set_connection(&Connection::new("a b", "http")).await.expect_err("a space").to_string();
    assert!(wrong.contains("`a b` is no id of a connection"), "{wrong}");
    assert!(matches!(vault.set_variable("", "x", None).await, Err(VaultError::BadKey(0))));
    assert!(matches!(vault.set_variable(&"k".repeat(251), "x", None).await, Err(VaultError::BadKey(251))));
    assert!(vault.set_variable(&"\u{f6}".repeat(250), "x", None).await.is_ok());
}

#[derive(Debug)]
struct Fixed {
    variable: Result<Option<&'static str>, &'static str>,
}

impl SecretsBackend for Fixed {
    async fn get_variable(&self, _: &str) -> Result<Option<String>, BoxError> {
        Ok(self.variable?.map(str::to_owned))
    }
}

fn secrets(backends: Vec<Fixed>, env: &[(&str, &str)], store: &SharedStore) -> Secrets {
    let mut all = Backends::default();
    backends.into_iter().for_each(|backend| all.push(backend));
    Secrets::new(all, environment(env), vault(store, ""), Masker::default())
}

/// Goal: backends of the application win, then the environment, then the store; a backend that fails is passed over.
#[tokio::test]
async fn places_are_asked_in_order() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    vault(&store, "").set_variable("Key", "store", None).await.expect("kept");
    let fixed = |text| Fixed { variable: Ok(text) };
    let env = [("AIRFLOW_VAR_KEY", "environment")];
    for (backends, env, expected) in [
        (vec![fixed(None), fixed(Some("backend"))], &env[..], "backend"),
        (vec![fixed(None)], &env[..], "environment"),
        (vec![], &[], "store"),
        (vec![Fixed { variable: Err("down") }], &env[..], "environment"),
        (vec![Fixed { variable: Err("down") }], &[], "store"),
    ] {
        let found = secrets(backends, env, &store).variable("Key").await.expect("found");
        assert_eq!(found.as_deref(), Some(expected));
    }
    let silent = secrets(vec![Fixed { variable: Err("down") }], &[], &store);
    let error = silent.variable("other").await.expect_err("one place could not be asked").to_string();
    assert!(error.contains("the variable `other` was not found") && error.contains("down"), "{error}");
    assert_eq!(secrets(vec![], &[], &store).variable("other").await.expect("asked"), None);
}

#[tokio::test]
async fn what_was_found_is_hidden() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let uri = "postgres://etl:p%40ssword@db/sales?api_key=k3y-k3y&sslmode=require";
    let env =
        [("AIRFLOW_CONN_DB", uri), ("AIRFLOW_VAR_MY_TOKEN", "t0ken-2"), ("AIRFLOW_VAR_REGION", "eu-west-1")];
    let secrets = secrets(vec![], &env, &store);
    secrets.connection("db").await.expect("found").expect("a connection");
    secrets.variable("my_token").await.expect("found").expect("a variable");
    secrets.variable("region").await.expect("found").expect("a variable");
    let shown = secrets.masker().mask("p@ssword p%40ssword k3y-k3y t0ken-2 require eu-west-1").into_owned();
    assert_eq!(shown, "*** *** *** *** require eu-west-1");
}

/// Goal: a file that is wrong is refused with its place, and nothing of what it holds.
#[test]
fn files_that_are_wrong_say_where_and_repeat_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text, why) in [
        ("a.json", "\"p4ss\"", "is no JSON object"),
        ("a.json", "{\"db\": p4ss", "is no JSON: expected value"),
        ("b.json", "{\"db\": \"x://u:p4ss@h:port\"}", "connection `db`: the port must be a number"),
        ("c.json", "{\"a b\": \"x://u:p4ss@h\"}", "connection `a b`: `a b` is no id"),
        ("d.env", "\n# p4ss\ndb p4ss", "line 3: write `NAME=VALUE`"),
        ("e.env", "db=x://u:p4ss@h\ndb=x://i", "line 2: `db` stands there twice"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        let error = FileSecrets::default().with_connections(&path).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains(why) && !error.contains("p4ss"), "{error}");
    }
    let missing = FileSecrets::default().with_variables(folder.path().join("none.json"));
    assert!(missing.expect_err("no file").to_string().contains("cannot be read"));
}
