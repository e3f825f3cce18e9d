//! Connections that break while a commit is on its way.

use airflow_core::store::{SharedStore, UnitResult, UnknownCommits, VariableRow};
use airflow_core::testing::proxy::{Cut, CuttingProxy};
use airflow_core::testing::servers::{Server, TestDatabase};

use super::kit::{BOTH, Opened, launch, run};

/// How many connections are cut in each test, half of them before the server got the message.
const CUTS: u64 = 40;

/// A store behind a proxy.
async fn behind_proxy(server: Server) -> Option<(TestDatabase, CuttingProxy, Opened)> {
    let database = TestDatabase::on(server).await?;
    let proxy = CuttingProxy::start(&database.host()).await.unwrap();
    let store = Opened::at(server, &database.url_by(&proxy.address())).await.unwrap();
    Some((database, proxy, store))
}

/// What stands in the message that writes a unit of this actor.
fn mark(server: Server, actor: &str) -> Vec<u8> {
    match server {
        Server::Postgres => actor.as_bytes().to_vec(),
        // Texts are literals in hexadecimal there.
        Server::Mysql => actor.bytes().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
    }
}

/// Every lost answer is accounted for. PostgreSQL answers when all is done; MySQL answers each statement of a message, so
/// there a connection that is cut at the first answer may or may not stop the rest.
fn check(server: Server, seen: UnknownCommits) {
    // There may be more: a machine that is slow enough passes a deadline.
    assert!(seen.committed + seen.undone >= CUTS && seen.unresolved == 0, "{server:?}: {seen:?}");
    assert!(seen.undone >= CUTS / 2, "{server:?}: {seen:?}");
    assert!(server == Server::Mysql || seen.committed >= CUTS / 2, "{seen:?}");
}

/// Goal: a commit whose answer is lost happens once, and its caller learns the truth. Method: cut the connection before
/// the server has the message with the commit, or when it answers, in turn; the answer to the caller, the rows and the
/// counts must agree.
#[tokio::test(flavor = "multi_thread")]
async fn commits_whose_answer_is_lost_happen_once() {
    for server in BOTH {
        let Some((_database, proxy, store)) = behind_proxy(server).await else { continue };
        let shared = store.shared();
        let row = run(&shared, "r").await;
        for number in 0..CUTS {
            let actor = format!("<{number}>");
            let mark = mark(server, &actor);
            proxy.cut(if number % 2 == 0 { Cut::Before(mark) } else { Cut::After(mark) });
            let unit = launch(&row, &format!("t{number}"), &actor, 1_000);
            assert_eq!(shared.commit(vec![unit.clone()]).await.unwrap(), [UnitResult::Committed], "{actor}");
            assert_eq!(proxy.cuts(), number + 1, "the connection was cut");
            assert_eq!(shared.commit(vec![unit]).await.unwrap(), [UnitResult::Stale], "{actor} is written");
        }
        check(server, store.unknown());
        let events = shared.events(row.pk, None).await.unwrap();
        assert_eq!(events.len() as u64, CUTS, "each happened once");
        assert_eq!(shared.slots().await.unwrap().iter().map(|(_, used)| *used).collect::<Vec<_>>(), [40, 40]);
    }
}

async fn write(shared: &SharedStore, number: u64) -> bool {
    let key = format!("k{number}");
    let variable = VariableRow {
        key: key.clone(),
        value: format!("<{number}>"),
        description: None,
        is_encrypted: false,
    };
    shared.set_variable(variable).await.unwrap();
    shared.delete_variable(&key).await.unwrap()
}

/// The same for transactions of several messages: their last one is cut.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_whose_answer_is_lost_happen_once() {
    for server in BOTH {
        let Some((_database, proxy, store)) = behind_proxy(server).await else { continue };
        let shared = store.shared();
        shared.migrate().await.unwrap();
        assert!(write(&shared, 0).await);
        for number in 0..CUTS {
            // The end of it: a transaction begins with `READ COMMITTED`.
            let mark = if server == Server::Postgres { b"COMMIT\0".to_vec() } else { b"COMMIT;".to_vec() };
            proxy.cut(if number % 2 == 0 { Cut::Before(mark) } else { Cut::After(mark) });
            assert!(write(&shared, number).await, "it was there to be deleted: {number}");
            assert_eq!(proxy.cuts(), number + 1, "the connection was cut");
        }
        check(server, store.unknown());
    }
}

/// Goal: a commit costs one message on PostgreSQL, two on MySQL. Method: count them.
#[tokio::test]
async fn a_commit_takes_few_messages() {
    for (server, messages) in [(Server::Postgres, 1), (Server::Mysql, 2)] {
        let Some((_database, proxy, store)) = behind_proxy(server).await else { continue };
        let shared = store.shared();
        let row = run(&shared, "r").await;
        // The first ones prepare the statement.
        for task in ["a", "b"] {
            shared.commit(vec![launch(&row, task, "x", 10)]).await.unwrap();
        }
        let before = proxy.messages();
        assert_eq!(shared.commit(vec![launch(&row, "c", "x", 10)]).await.unwrap(), [UnitResult::Committed]);
        assert_eq!(proxy.messages() - before, messages, "{server:?}");
    }
}
