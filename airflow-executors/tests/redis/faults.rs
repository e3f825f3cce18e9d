//! What goes wrong with Redis, and how it is told. Most tests have a server of their own.

use std::sync::Arc;

use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
use airflow_executors::remote::testing::suite::{Ground as _, PATIENCE, consumer, publish_all};
use airflow_executors::remote::testing::{BrokerServer, PrivateServer, free_port};
use airflow_executors::remote::{Message, Settle, Transport, TransportError};

use super::common::{certificates, comes, message};
use super::ground;

async fn start(options: &[&str]) -> Option<PrivateServer> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let starting = tokio::task::spawn_blocking(move || {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = PrivateServer::start(BrokerServer::Redis, &options);
        if server.is_none() {
            BrokerServer::Redis.missing();
        }
        server
    });
    starting.await.unwrap()
}

fn transport(url: &str) -> Arc<dyn Transport> {
    Arc::new(RedisTransport::new(&RedisOptions::new(url)).unwrap())
}

/// Why it cannot serve.
async fn unfit(url: &str) -> String {
    match transport(url).check().await {
        Err(TransportError::Unfit { place, why }) => {
            assert!(!place.contains("pa55"), "{place}");
            why
        }
        other => panic!("{other:?}"),
    }
}

/// Goal: nobody is deaf after a crash, with or without the data. Method: a consumer from before must get what is
/// published after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_comes_back_empty_finds_its_consumers_listening() {
    let Some(mut server) = start(&["--appendonly", "yes"]).await else { return };
    let transport = transport(&server.url());
    let consumer = consumer(&*transport, &["q"], 10);
    comes(&*transport, &*consumer, "before").await;
    for (keep, text) in [(true, "with data"), (false, "without"), (true, "again")] {
        server = tokio::task::spawn_blocking(move || {
            server.restart(keep);
            server
        })
        .await
        .unwrap();
        comes(&*transport, &*consumer, text).await;
    }
    assert!(consumer.health().reconnects >= 3, "{:?}", consumer.health());
}

/// Goal: data that vanish under a consumer that listens, without a cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_data_leave_nobody_deaf() {
    let Some(server) = start(&[]).await else { return };
    let transport = transport(&server.url());
    let consumer = consumer(&*transport, &["q"], 10);
    comes(&*transport, &*consumer, "before").await;
    let mut conn = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for text in ["one", "two"] {
        redis::cmd("FLUSHALL").query::<()>(&mut conn).unwrap();
        comes(&*transport, &*consumer, text).await;
    }
}

/// Goal: what a worker held that died without a word is found. Method: a consumer that is nobody, with an entry that
/// Redis believes to be idle for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_dead_held_is_taken_over_and_counted() {
    let Some(ground) = ground().await else { return };
    let transport = ground.transport();
    publish_all(&*transport, message("held")).await;
    let mut conn =
        redis::Client::open(format!("redis://{}", ground.host())).unwrap().get_connection().unwrap();
    let key = format!("{}queue:{{q}}", ground.prefix);
    let read = ["GROUP", "workers", "dead", "STREAMS", &key, ">"];
    redis::cmd("XREADGROUP").arg(&read).query::<redis::Value>(&mut conn).unwrap();
    let ids: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(&[&key, "-", "+"]).query(&mut conn).unwrap();
    let claim = [&key, "workers", "dead", "0", &ids.ids[0].id, "IDLE", "60000", "RETRYCOUNT", "3"];
    redis::cmd("XCLAIM").arg(&claim).query::<redis::Value>(&mut conn).unwrap();

    let consumer = consumer(&*transport, &["q"], 10);
    let deliveries = tokio::time::timeout(PATIENCE, consumer.receive(10)).await.expect("in time");
    assert_eq!((deliveries[0].body.as_slice(), deliveries[0].redeliveries), (&b"held"[..], 3));
    consumer.settle(vec![deliveries[0].token], Settle::Done).await.unwrap();
    let depth = transport.depth("q").await.unwrap();
    assert_eq!((depth.ready, depth.unsettled), (0, 0));
    consumer.close().await;
    // Who said goodbye is off the list.
    let left: redis::streams::StreamInfoConsumersReply =
        redis::cmd("XINFO").arg(&["CONSUMERS", &key, "workers"]).query(&mut conn).unwrap();
    assert_eq!(left.consumers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["dead"]);
}

/// Goal: the strangest entries reach the receiver, who sets them aside, and do not stop the reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_strangers_are_delivered_as_they_are() {
    let Some(ground) = ground().await else { return };
    let transport = ground.transport();
    let mut conn =
        redis::Client::open(format!("redis://{}", ground.host())).unwrap().get_connection().unwrap();
    let key = format!("{}queue:{{q}}", ground.prefix);
    for fields in
        [&["x", "y"][..], &["b", "", "n", "-1"], &["b", "ok", "n", "7", "b2", "z"], &["n", "999999999999"]]
    {
        redis::cmd("XADD").arg(&key).arg("*").arg(fields).query::<()>(&mut conn).unwrap();
    }
    let consumer = consumer(&*transport, &["q"], 10);
    let mut found = Vec::new();
    while found.len() < 4 {
        let deliveries = tokio::time::timeout(PATIENCE, consumer.receive(10)).await.expect("in time");
        found.extend(deliveries.into_iter().map(|delivery| (delivery.body, delivery.redeliveries)));
    }
    assert_eq!(found, [(vec![], 0), (vec![], 0), (b"ok".to_vec(), 7), (vec![], 0)]);
}

/// Goal: settings by which work is lost or refused are named, with the cure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_misconfigured_is_named() {
    let Some(server) = start(&["--maxmemory-policy", "allkeys-lru"]).await else { return };
    assert!(unfit(&server.url()).await.contains("set it to noeviction"));
    let far = unfit(&format!("redis://{}/99", server.host())).await;
    assert!(far.contains("choose another number"), "{far}");

    let Some(server) = start(&["--requirepass", "pa55word"]).await else { return };
    let secret = server.url().replace("://", "://:pa55word@");
    transport(&secret).check().await.unwrap();
    for wrong in [server.url(), server.url().replace("://", "://:pa55@")] {
        let why = unfit(&wrong).await;
        assert!(why.contains("user or password") && !why.contains("pa55"), "{why}");
    }
    let mut conn = redis::Client::open(secret).unwrap().get_connection().unwrap();
    let acl = ["SETUSER", "limited", "on", ">pa55", "~*", "&*", "+@all", "-xautoclaim"];
    redis::cmd("ACL").arg(&acl).query::<()>(&mut conn).unwrap();
    let why = unfit(&server.url().replace("://", "://limited:pa55@")).await;
    assert!(why.contains("xautoclaim") && why.contains("ACL SETUSER"), "{why}");
    // What is said to be enough is enough.
    let acl = "SETUSER enough on >pa55 ~airflow:* &airflow:* -@all +@stream +@pubsub +@connection +@transaction +info \
               +time +del +eval";
    redis::cmd("ACL")
        .arg(acl.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())
        .query::<()>(&mut conn)
        .unwrap();
    let enough = transport(&server.url().replace("://", "://enough:pa55@"));
    enough.check().await.unwrap();
    let consumer = consumer(&*enough, &["q"], 10);
    comes(&*enough, &*consumer, "allowed").await;
    consumer.close().await;
}

/// Goal: memory that is full refuses, loses nothing that was taken, and takes again. Redis refuses transactions then,
/// also one that would free memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_memory_refuses_and_keeps_what_it_took() {
    let Some(server) = start(&["--maxmemory", "3mb"]).await else { return };
    let transport = transport(&server.url());
    let big = || vec![Message { queue: "q".into(), body: vec![7; 100_000] }; 4];
    let mut taken = 0;
    let refused = loop {
        let answers = transport.publish(big()).await;
        taken += answers.iter().filter(|answer| answer.is_ok()).count();
        if let Some(Err(error)) = answers.into_iter().find(Result::is_err) {
            break error;
        }
    };
    assert!(
        matches!(&refused, TransportError::Rejected { queue, why } if queue == "q" && why.contains("memory"))
    );
    // A worker that starts now is what makes room.
    let facts = transport.check().await.unwrap();
    assert!(facts.warnings.iter().any(|warning| warning.contains("full")), "{facts:?}");
    // Nothing can be put back now, which must not stop anybody.
    let giving = consumer(&*transport, &["q"], 2);
    let held = tokio::time::timeout(PATIENCE, giving.receive(1)).await.expect("in time");
    assert!(giving.settle(vec![held[0].token], Settle::Back).await.is_err());
    giving.close().await;
    taken -= 2;
    let consumer = consumer(&*transport, &["q"], 100);
    while taken > 0 {
        let deliveries = tokio::time::timeout(PATIENCE, consumer.receive(100)).await.expect("in time");
        taken = taken.saturating_sub(deliveries.len());
        consumer.settle(deliveries.iter().map(|d| d.token).collect(), Settle::Done).await.unwrap();
    }
    assert!(transport.publish(message("small")).await[0].is_ok());
}

/// Goal: a certificate of an authority of one's own is trusted, and nobody else's. Method: such an authority, and a
/// server that speaks TLS only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let (folder, ca) = certificates();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key, authority) = (file("cert.pem"), file("key.pem"), file("ca.pem"));
    // Its plain port is the one that the test waits for.
    let port = free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file"];
    let tls = [&tls[..], &[&authority, "--tls-auth-clients", "no"]].concat();
    let Some(_server) = start(&tls).await else { return };
    let url = format!("rediss://localhost:{port}/0");
    let trusting = RedisTransport::new(&RedisOptions::new(&url).ca_pem(ca)).unwrap();
    trusting.check().await.unwrap();
    let consumer = consumer(&trusting, &["q"], 10);
    comes(&trusting, &*consumer, "over tls").await;
    let mut news = trusting.subscribe("t");
    loop {
        trusting.announce("t", b"x".to_vec()).await.unwrap();
        if let Ok(heard) = tokio::time::timeout(std::time::Duration::from_millis(100), news.next()).await {
            break assert_eq!(heard, Some(b"x".to_vec()));
        }
    }
    let (_, other) = certificates();
    for doubting in [RedisOptions::new(&url), RedisOptions::new(&url).ca_pem(other)] {
        let refused = RedisTransport::new(&doubting).unwrap().check().await;
        let Err(TransportError::Unreachable { why, .. }) = refused else { panic!("{refused:?}") };
        assert!(why.to_lowercase().contains("certificate"), "{why}");
    }
}

/// Goal: a server that wants to know who connects is shown our certificate. Method: one that lets nobody in without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_ours_is_shown_to_who_asks() {
    let (folder, ca) = certificates();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key, authority) = (file("cert.pem"), file("key.pem"), file("ca.pem"));
    let port = free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file"];
    let tls = [&tls[..], &[&authority, "--tls-auth-clients", "yes"]].concat();
    let Some(_server) = start(&tls).await else { return };
    let nobody = RedisOptions::new(format!("rediss://localhost:{port}/0")).ca_pem(ca);
    let refused = RedisTransport::new(&nobody).unwrap().check().await;
    assert!(matches!(&refused, Err(TransportError::Unreachable { .. })), "{refused:?}");
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let known = nobody.client_pem(read("cert.pem"), read("key.pem"));
    let known = RedisTransport::new(&known).unwrap();
    known.check().await.unwrap();
    let consumer = consumer(&known, &["q"], 10);
    comes(&known, &*consumer, "from somebody known").await;
}

/// Goal: the master is found by sentinels, and its successor too. Method: a master, a replica and a sentinel; the master
/// is killed, and what is published and received goes on at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_lead_to_the_master_and_to_its_successor() {
    let Some(mut master) = start(&["--requirepass", "pa55"]).await else { return };
    let (host, port) = (master.host(), master.host().rsplit_once(':').unwrap().1.to_owned());
    let follow = ["--replicaof", "127.0.0.1", &port, "--masterauth", "pa55", "--requirepass", "pa55"];
    let replica = start(&follow).await.unwrap();
    let reading = unfit(&replica.url().replace("://", "://:pa55@")).await;
    assert!(reading.contains("replica"), "{reading}");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sentinel.conf");
    let text = format!(
        "sentinel monitor ours 127.0.0.1 {port} 1\nsentinel auth-pass ours pa55\nsentinel down-after-milliseconds \
         ours 500\nsentinel failover-timeout ours 3000\n"
    );
    std::fs::write(&config, text).unwrap();
    let sentinel = start(&[config.to_str().unwrap(), "--sentinel"]).await.unwrap();
    let nobody = unfit(&format!("sentinel://:pa55@{}/0?master=theirs", sentinel.host())).await;
    assert!(nobody.contains("no sentinel knows"), "{nobody}");

    // The first one is not there: the next is asked.
    let transport = transport(&format!("sentinel://:pa55@127.0.0.1:9,{}/0?master=ours", sentinel.host()));
    transport.check().await.unwrap();
    let consumer = consumer(&*transport, &["q"], 10);
    comes(&*transport, &*consumer, "before").await;
    // A replica that the sentinel has not seen cannot become the master.
    let mut asked =
        redis::Client::open(format!("redis://{}", sentinel.host())).unwrap().get_connection().unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let command = redis::cmd("SENTINEL").arg(&["REPLICAS", "ours"]).to_owned();
        let replicas: Vec<std::collections::HashMap<String, String>> = command.query(&mut asked).unwrap();
        if replicas.iter().any(|replica| replica["master-link-status"] == "ok") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{replicas:?}");
    }
    master.kill();
    assert_ne!(replica.host(), host);
    comes(&*transport, &*consumer, "after").await;
    drop(sentinel);
}
