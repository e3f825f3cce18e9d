//! What goes wrong with RabbitMQ, and how it is told.

use std::sync::Arc;

use airflow_executors::remote::rabbitmq::{QueueKind, RabbitmqOptions, RabbitmqTransport};
use airflow_executors::remote::testing::suite::{Ground as _, PATIENCE, consumer, publish_all};
use airflow_executors::remote::testing::{BadLink, BrokerServer, PrivateServer, free_port};
use airflow_executors::remote::{Message, Settle, Transport, TransportError};
use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use super::common::{certificates, comes, message};
use super::{Prefix, ground};

async fn start(options: &[&str]) -> Option<PrivateServer> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let starting = tokio::task::spawn_blocking(move || {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = PrivateServer::start(BrokerServer::Rabbitmq, &options);
        if server.is_none() {
            BrokerServer::Rabbitmq.missing();
        }
        server
    });
    starting.await.unwrap()
}

/// Something with a server that takes its time.
async fn with(
    mut server: PrivateServer,
    does: impl FnOnce(&mut PrivateServer) + Send + 'static,
) -> PrivateServer {
    let doing = tokio::task::spawn_blocking(move || {
        does(&mut server);
        server
    });
    doing.await.unwrap()
}

fn transport(options: &RabbitmqOptions) -> Arc<dyn Transport> {
    Arc::new(RabbitmqTransport::new(options).unwrap())
}

fn options(ground: &Prefix) -> RabbitmqOptions {
    RabbitmqOptions::new(&ground.url).prefix(&ground.prefix)
}

/// Why it cannot serve.
async fn unfit(url: &str) -> String {
    match transport(&RabbitmqOptions::new(url)).check().await {
        Err(TransportError::Unfit { place, why }) => {
            assert!(!place.contains("pa55") && !why.contains("pa55"), "{place}: {why}");
            why
        }
        other => panic!("{other:?}"),
    }
}

async fn channel(url: &str) -> (Connection, lapin::Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Goal: nobody is deaf after a crash, with or without the data. Method: a consumer from before must get what is
/// published after. With its data only classic queues are looked at: a quorum queue of a single node of 3.10 that was
/// killed may stay without a leader, which is beyond a client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_comes_back_empty_finds_its_consumers_listening() {
    let Some(mut server) = start(&[]).await else { return };
    let options = RabbitmqOptions::new(server.url());
    let quorum = transport(&options);
    let classic = transport(&options.prefix("classic.").queue_kind(QueueKind::Classic));
    let readers = [consumer(&*quorum, &["q"], 10), consumer(&*classic, &["q"], 10)];
    comes(&*quorum, &*readers[0], "before").await;
    comes(&*classic, &*readers[1], "before").await;
    server = with(server, |server| server.restart(true)).await;
    comes(&*classic, &*readers[1], "with data").await;
    let _server = with(server, |server| server.restart(false)).await;
    comes(&*quorum, &*readers[0], "without data").await;
    comes(&*classic, &*readers[1], "without data").await;
    assert!(readers.iter().all(|reader| reader.health().reconnects >= 1));
}

/// Goal: an alarm stops publishing at once and is shown, and its end is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_pauses_publishing() {
    let Some(server) = start(&[]).await else { return };
    let transport = transport(&RabbitmqOptions::new(server.url()));
    publish_all(&*transport, message("before")).await;
    let server =
        with(server, |server| server.ctl(&["set_vm_memory_high_watermark", "absolute", "1000"])).await;
    let refused = loop {
        // The alarm is told to those who publish.
        if let Err(error) = transport.publish(message("x")).await.remove(0) {
            break error;
        }
    };
    assert!(matches!(&refused, TransportError::Rejected { why, .. } if why.contains("memory")), "{refused}");
    assert!(transport.health().blocked.is_some_and(|why| why.contains("memory")));
    // Consuming is what helps, so it goes on.
    let consumer = consumer(&*transport, &["q"], 10);
    assert!(!tokio::time::timeout(PATIENCE, consumer.receive(1)).await.expect("in time").is_empty());
    let _server = with(server, |server| server.ctl(&["set_vm_memory_high_watermark", "0.9"])).await;
    comes(&*transport, &*consumer, "after").await;
    assert_eq!(transport.health().blocked, None);
}

/// Goal: users, vhosts, permissions and certificates that are wrong are named, with the cure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_misconfigured_is_named() {
    let (folder, ca) = certificates();
    let port = free_port();
    let file =
        |option: &str, name: &str| format!("ssl_options.{option} = {}", folder.path().join(name).display());
    let (cert, key, authority) =
        (file("certfile", "cert.pem"), file("keyfile", "key.pem"), file("cacertfile", "ca.pem"));
    let listener = format!("listeners.ssl.1 = 127.0.0.1:{port}");
    // Nobody is let in over TLS who does not show a certificate.
    let strict = ["ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true"];
    let settings = [&[listener.as_str(), &cert, &key, &authority][..], &strict].concat();
    let Some(server) = start(&settings).await else { return };
    let server = with(server, |server| {
        server.ctl(&["add_user", "limited", "pa55"]);
        server.ctl(&["set_permissions", "limited", "^none$", ".*", ".*"]);
        server.ctl(&["add_user", "enough", "pa55"]);
        let (ours, write) = ("^airflow\\..*", "^(airflow\\..*|amq\\.default)$");
        server.ctl(&["set_permissions", "enough", ours, write, ours]);
    })
    .await;
    let host = server.host();
    let why = unfit(&format!("amqp://guest:pa55@{host}/")).await;
    assert!(why.contains("user and password"), "{why}");
    let why = unfit(&format!("amqp://guest:guest@{host}/nowhere")).await;
    assert!(why.contains("nowhere") && why.contains("add_vhost"), "{why}");
    let why = unfit(&format!("amqp://limited:pa55@{host}/")).await;
    assert!(why.contains("airflow.") && why.contains("set_permissions"), "{why}");
    // What is said to be enough is enough.
    let enough = transport(&RabbitmqOptions::new(format!("amqp://enough:pa55@{host}/")));
    enough.check().await.unwrap();
    let reading = consumer(&*enough, &["q"], 10);
    comes(&*enough, &*reading, "allowed").await;

    let url = format!("amqps://guest:guest@localhost:{port}/");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let known = |options: RabbitmqOptions| options.client_pem(read("cert.pem"), read("key.pem"));
    let trusting = transport(&known(RabbitmqOptions::new(&url).ca_pem(&ca)));
    trusting.check().await.unwrap();
    let nobody = transport(&RabbitmqOptions::new(&url).ca_pem(ca)).check().await;
    assert!(matches!(&nobody, Err(TransportError::Unreachable { .. })), "{nobody:?}");
    let (_other, other) = certificates();
    for doubting in [RabbitmqOptions::new(&url), RabbitmqOptions::new(&url).ca_pem(other)] {
        let refused = transport(&known(doubting)).check().await;
        let Err(TransportError::Unreachable { why, .. }) = refused else { panic!("{refused:?}") };
        assert!(why.to_lowercase().contains("certificate"), "{why}");
    }
}

/// Goal: a queue that was made otherwise is named, with the cure, and the others work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_settings_is_named() {
    let Some(ground) = ground().await else { return };
    let (_connection, channel) = channel(&ground.url).await;
    let name = format!("{}queue.q", ground.prefix);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let transport = transport(&options(&ground));
    let both = vec![message("x").remove(0), Message { queue: "a".into(), body: b"y".to_vec() }];
    let answers = transport.publish(both).await;
    let Err(TransportError::Unfit { why, .. }) = &answers[0] else { panic!("{answers:?}") };
    assert!(why.contains(&name) && why.contains("delete_queue"), "{why}");
    assert!(answers[1].is_ok(), "{answers:?}");
    // A consumer tells it too, and works as soon as it is mended.
    let reading = consumer(&*transport, &["q"], 10);
    let receiving = reading.receive(1);
    tokio::pin!(receiving);
    loop {
        tokio::select! {
            deliveries = &mut receiving => panic!("{deliveries:?}"),
            () = tokio::task::yield_now() => {}
        }
        if reading.health().last_error.is_some_and(|error| error.contains("delete_queue")) {
            break;
        }
    }
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    publish_all(&*transport, message("mended")).await;
    assert_eq!(tokio::time::timeout(PATIENCE, receiving).await.expect("in time")[0].body, b"mended");
}

/// Goal: a queue that somebody deletes is made again, for those who publish and for those who consume; the broker tells
/// the latter by a cancel that is easily missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_leaves_nobody_deaf() {
    let Some(ground) = ground().await else { return };
    let transport = transport(&options(&ground));
    let reading = consumer(&*transport, &["q"], 10);
    comes(&*transport, &*reading, "before").await;
    let (_connection, channel) = channel(&ground.url).await;
    let name = format!("{}queue.q", ground.prefix);
    for text in ["one", "two"] {
        channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        comes(&*transport, &*reading, text).await;
    }
    // Without a consumer too: what comes back because nobody has a queue for it is sent again.
    reading.close().await;
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    transport.publish(message("alone")).await.remove(0).unwrap();
    channel.queue_purge(name.into(), QueuePurgeOptions::default()).await.unwrap();
}

/// Goal: a full queue refuses and keeps what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_keeps_what_it_took() {
    let Some(ground) = ground().await else { return };
    let transport = transport(&options(&ground).max_length(20));
    let (mut taken, mut next) = (Vec::new(), 0);
    let refused = loop {
        next += 1;
        match transport.publish(message(&next.to_string())).await.remove(0) {
            Ok(()) => taken.push(next.to_string()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, TransportError::Rejected { queue, why } if queue == "q" && why.contains("full"))
    );
    assert!(taken.len() >= 20, "{taken:?}");
    let reading = consumer(&*transport, &["q"], 50);
    let mut found = Vec::new();
    while found.len() < taken.len() {
        let deliveries = tokio::time::timeout(PATIENCE, reading.receive(50)).await.expect("in time");
        reading.settle(deliveries.iter().map(|d| d.token).collect(), Settle::Done).await.unwrap();
        found.extend(deliveries.into_iter().map(|delivery| String::from_utf8(delivery.body).unwrap()));
    }
    assert_eq!(found, taken);
    comes(&*transport, &*reading, "again").await;
}

/// Goal: what kills every worker, or nobody has code for, does not go around for ever. Method: given back until it does
/// not come any more; then it is where people look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_too_often_is_set_aside() {
    let Some(ground) = ground().await else { return };
    let transport = transport(&options(&ground).delivery_limit(3));
    let reading = consumer(&*transport, &["q"], 1);
    publish_all(&*transport, message("poison")).await;
    let (_connection, channel) = channel(&ground.url).await;
    let dead = format!("{}dead", ground.prefix);
    let mut times = Vec::new();
    let set_aside = async {
        loop {
            let get = channel.basic_get(dead.as_str().into(), BasicGetOptions { no_ack: true });
            if let Some(got) = get.await.unwrap() {
                return got.delivery.data;
            }
            let receiving = tokio::time::timeout(std::time::Duration::from_millis(100), reading.receive(1));
            let Ok(deliveries) = receiving.await else { continue };
            times.push(deliveries[0].redeliveries);
            reading.settle(vec![deliveries[0].token], Settle::Back).await.unwrap();
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, set_aside).await.expect("in time"), b"poison");
    assert_eq!(times, [0, 1, 2, 3]);
}

/// Goal: the next node is taken when the first is gone, and nobody is deaf. Method: two ways to one server, of which the
/// first is not there at the beginning, then is, then is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_is_tried() {
    let Some(ground) = ground().await else { return };
    let (first, second) =
        (BadLink::start(&ground.host()).await.unwrap(), BadLink::start(&ground.host()).await.unwrap());
    let url = |host: &str| ground.url.replace(&ground.host(), host);
    let nodes = RabbitmqOptions::new(url("127.0.0.1:9")).or(url(&first.address())).or(url(&second.address()));
    let transport = transport(&nodes.prefix(&ground.prefix));
    let reading = consumer(&*transport, &["q"], 10);
    comes(&*transport, &*reading, "by the first").await;
    assert_eq!((first.connections() > 1, second.connections()), (true, 0));
    drop(first);
    comes(&*transport, &*reading, "by the second").await;
    assert!(second.connections() > 1);
}

/// Goal: classic queues serve too. Method: messages, and what is given back is marked as seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic_queues_serve() {
    let Some(ground) = ground().await else { return };
    let transport = transport(&options(&ground).queue_kind(QueueKind::Classic));
    assert_eq!(transport.check().await.unwrap().warnings.len(), 1);
    let reading = consumer(&*transport, &["q"], 10);
    publish_all(&*transport, message("x")).await;
    let first = tokio::time::timeout(PATIENCE, reading.receive(1)).await.expect("in time");
    reading.settle(vec![first[0].token], Settle::Back).await.unwrap();
    let again = tokio::time::timeout(PATIENCE, reading.receive(1)).await.expect("in time");
    assert_eq!((first[0].redeliveries, again[0].redeliveries), (0, 1));
    reading.settle(vec![again[0].token], Settle::Done).await.unwrap();
    comes(&*transport, &*reading, "y").await;
}

/// Goal: a token of a lost connection settles nothing. Method: the connection is cut between delivery and settling; the message comes again and is settled then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_lost_connection_settles_nothing() {
    let Some(ground) = ground().await else { return };
    let link = BadLink::start(&ground.host()).await.unwrap();
    let transport = ground.transport_by(&link.address());
    let reading = consumer(&*transport, &["q"], 2);
    publish_all(&*transport, message("x")).await;
    let before = tokio::time::timeout(PATIENCE, reading.receive(1)).await.expect("in time");
    link.cut();
    let again = tokio::time::timeout(PATIENCE, reading.receive(1)).await.expect("in time");
    assert_ne!(before[0].token, again[0].token);
    reading.settle(vec![before[0].token], Settle::Done).await.unwrap();
    reading.settle(vec![again[0].token], Settle::Back).await.unwrap();
    let last = tokio::time::timeout(PATIENCE, reading.receive(1)).await.expect("in time");
    assert_eq!(last[0].body, b"x");
}
