//! The contract of [`Transport`], as claims that any broker is held to.
//!
//! Nothing here is in a fixed order and nothing sleeps: what is waited for arrives, or the test ends at its deadline.
//! Messages may come twice, as the contract allows.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BadLink;
pub use super::letters::what_nobody_of_ours_sent_is_set_aside_once;
use crate::remote::{
    ConsumeOptions, Consumer, Delivery, Depth, MAX_QUEUE, Message, Settle, Transport, TransportError,
};

/// How long anything may take. A machine that builds beside it is slow.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A name of the longest length.
const LONG: &str = match std::str::from_utf8(&[b'q'; MAX_QUEUE]) {
    Ok(name) => name,
    Err(_) => panic!("it is ASCII"),
};

/// All queues that the suite makes, for who has to take them away.
pub const QUEUES: &[&str] = &["q", "a", "b", "c", "a b", "ä}{*#.>", "../x", LONG];

/// A place on a broker that is a test's own.
pub trait Ground: fmt::Debug + Send + Sync {
    /// The host and port of the broker.
    fn host(&self) -> String;

    /// A transport that goes there by another host and port.
    fn transport_by(&self, host: &str) -> Arc<dyn Transport>;

    /// One that goes there directly.
    fn transport(&self) -> Arc<dyn Transport> {
        self.transport_by(&self.host())
    }
}

/// Makes a test of each claim: `transport_suite!(ground)`, where `ground()` gives a future of an `Option` of a
/// [`Ground`].
#[macro_export]
macro_rules! transport_suite {
    ($ground:path) => {
        $crate::transport_suite!($ground:
            what_is_published_comes_and_is_done_with,
            what_is_given_back_comes_to_another_consumer,
            what_a_dropped_consumer_held_comes_again,
            what_a_closed_consumer_held_comes_again,
            no_more_is_taken_than_the_prefetch,
            many_queues_share_one_prefetch,
            a_pause_gives_back_what_was_fetched,
            what_nobody_waits_for_goes_to_others,
            a_receive_that_is_given_up_loses_nothing,
            other_queues_can_be_listened_to,
            confirmed_messages_survive_ten_thousand_and_cuts,
            an_announcement_reaches_all_who_listen,
            a_silent_network_ends_every_call,
            a_full_queue_is_counted,
            names_that_cannot_be_are_refused,
            check_tells_what_the_broker_is,
            what_nobody_of_ours_sent_is_set_aside_once,
        );
    };
    ($ground:path: $($claim:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            let Some(ground) = $ground().await else { return };
            let claim = $crate::remote::testing::suite::$claim(&ground);
            tokio::time::timeout($crate::remote::testing::suite::PATIENCE, claim).await.expect("in time");
        })*
    };
}

fn message(queue: &str, body: impl fmt::Display) -> Message {
    Message { queue: queue.to_owned(), body: body.to_string().into_bytes() }
}

fn messages(queue: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(queue, number)).collect()
}

fn all(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.clone()).expect("a text of ours")
}

/// A consumer of queues.
pub fn consumer(transport: &dyn Transport, queues: &[&str], prefetch: u16) -> Box<dyn Consumer> {
    let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    transport.consume(ConsumeOptions { queues, name: "test".into(), prefetch })
}

/// Publishes, and again what was not kept, until all is.
pub async fn publish_all(transport: &dyn Transport, mut messages: Vec<Message>) -> usize {
    let mut failures = 0;
    while !messages.is_empty() {
        let answers = transport.publish(messages.clone()).await;
        assert_eq!(answers.len(), messages.len());
        let mut answers = answers.iter();
        messages.retain(|_| answers.next().is_some_and(Result::is_err));
        failures += messages.len();
    }
    failures
}

/// Receives and settles until all these have come.
async fn receive_all(consumer: &dyn Consumer, mut missing: BTreeSet<String>) {
    while !missing.is_empty() {
        let deliveries = consumer.receive(50).await;
        for delivery in &deliveries {
            missing.remove(&body(delivery));
        }
        // If it fails they come again, which changes nothing here.
        let _ =
            consumer.settle(deliveries.iter().map(|delivery| delivery.token).collect(), Settle::Done).await;
    }
}

/// Waits until the broker counts so: counts may come a little later than answers.
async fn counts(transport: &dyn Transport, is_so: impl Fn(&Depth) -> bool) {
    while !is_so(&transport.depth("q").await.expect("the broker is well")) {}
}

/// Receives `count` and settles nothing.
async fn hold(consumer: &dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut held = Vec::new();
    while held.len() < count {
        held.extend(consumer.receive(count - held.len()).await);
    }
    assert_eq!(held.len(), count, "more than there was room for");
    held
}

/// Goal: the usual way of a message. Method: publish, receive, settle; then the queue is empty and nobody holds
/// anything.
pub async fn what_is_published_comes_and_is_done_with(ground: &dyn Ground) {
    let transport = ground.transport();
    let consumer = consumer(&*transport, &["q"], 20);
    for answer in transport.publish(messages("q", 100)).await {
        answer.expect("the broker is well");
    }
    receive_all(&*consumer, all(100)).await;
    assert!(consumer.health().is_connected && transport.health().is_connected);
    consumer.close().await;
    counts(&*transport, |depth| (depth.ready, depth.unsettled) == (0, 0)).await;
}

/// Goal: a worker that cannot run something gives it to one that can. Method: the first gives back and stops.
pub async fn what_is_given_back_comes_to_another_consumer(ground: &dyn Ground) {
    let transport = ground.transport();
    publish_all(&*transport, messages("q", 3)).await;
    let first = consumer(&*transport, &["q"], 3);
    let held = hold(&*first, 3).await;
    assert!(held.iter().all(|delivery| delivery.queue == "q"), "{held:?}");
    let tokens = held.iter().map(|delivery| delivery.token).collect();
    first.settle(tokens, Settle::Back).await.expect("the broker is well");
    first.pause().await;
    let second = consumer(&*transport, &["q"], 3);
    let again = hold(&*second, 3).await;
    assert_eq!(again.iter().map(body).collect::<BTreeSet<_>>(), all(3));
    assert!(again.iter().all(|delivery| delivery.redeliveries > 0), "{again:?}");
}

/// Goal: a worker that ends without a word takes nothing with it.
pub async fn what_a_dropped_consumer_held_comes_again(ground: &dyn Ground) {
    let transport = ground.transport();
    publish_all(&*transport, messages("q", 5)).await;
    let first = consumer(&*transport, &["q"], 5);
    hold(&*first, 5).await;
    drop(first);
    receive_all(&*consumer(&*transport, &["q"], 5), all(5)).await;
}

/// Goal: a worker that says goodbye gives back what it holds and does not show up in the broker any more.
pub async fn what_a_closed_consumer_held_comes_again(ground: &dyn Ground) {
    let transport = ground.transport();
    publish_all(&*transport, messages("q", 5)).await;
    let first = consumer(&*transport, &["q"], 5);
    hold(&*first, 5).await;
    first.close().await;
    counts(&*transport, |depth| (depth.unsettled, depth.consumers) == (0, 0)).await;
    receive_all(&*consumer(&*transport, &["q"], 5), all(5)).await;
}

/// Goal: what one cannot work on is not kept from others. Method: 20 messages, one holds its 3 and asks for more; the
/// other gets all the others.
pub async fn no_more_is_taken_than_the_prefetch(ground: &dyn Ground) {
    let transport = ground.transport();
    publish_all(&*transport, messages("q", 20)).await;
    let first = consumer(&*transport, &["q"], 3);
    let held = hold(&*first, 3).await;
    let mine: BTreeSet<String> = held.iter().map(body).collect();
    let others = all(20).difference(&mine).cloned().collect();
    let second = consumer(&*transport, &["q"], 50);
    tokio::select! {
        more = first.receive(10) => panic!("more than the prefetch: {more:?}"),
        () = receive_all(&*second, others) => {}
    }
    // Once there is room it takes again.
    first.settle(held.iter().map(|d| d.token).collect(), Settle::Done).await.expect("the broker is well");
    second.close().await;
    publish_all(&*transport, messages("q", 1)).await;
    assert_eq!(first.receive(10).await.len(), 1);
}

/// Goal: the prefetch is one for all queues. Method: a consumer with room for 2 and three full queues holds 2; the other
/// gets all the others. Then it has room again.
pub async fn many_queues_share_one_prefetch(ground: &dyn Ground) {
    const NAMES: &[&str] = &["a", "b", "c"];
    let transport = ground.transport();
    let names = |name: &str| (0..10).map(|number| format!("{name}{number}")).collect::<Vec<_>>();
    let mut all: BTreeSet<String> = NAMES.iter().flat_map(|name| names(name)).collect();
    for queue in NAMES {
        publish_all(&*transport, names(queue).iter().map(|text| message(queue, text)).collect()).await;
    }
    let first = consumer(&*transport, NAMES, 2);
    let held = hold(&*first, 2).await;
    for delivery in &held {
        all.remove(&body(delivery));
    }
    let second = consumer(&*transport, NAMES, 30);
    tokio::select! {
        more = first.receive(10) => panic!("more than the prefetch: {more:?}"),
        () = receive_all(&*second, all) => {}
    }
    second.close().await;
    first.settle(held.iter().map(|d| d.token).collect(), Settle::Done).await.expect("the broker is well");
    for queue in NAMES {
        publish_all(&*transport, vec![message(queue, queue)]).await;
        let came = first.receive(1).await;
        assert_eq!(came.iter().map(body).collect::<Vec<_>>(), [*queue]);
        first.settle(vec![came[0].token], Settle::Done).await.expect("the broker is well");
    }
}

/// Goal: a worker that is full leaves work to others at once.
pub async fn a_pause_gives_back_what_was_fetched(ground: &dyn Ground) {
    let transport = ground.transport();
    publish_all(&*transport, messages("q", 10)).await;
    let first = consumer(&*transport, &["q"], 10);
    let held = hold(&*first, 1).await;
    first.pause().await;
    let mut others = all(10);
    others.remove(&body(&held[0]));
    let second = consumer(&*transport, &["q"], 10);
    receive_all(&*second, others).await;
    // The pause ends with the next call.
    second.close().await;
    publish_all(&*transport, vec![message("q", "after")]).await;
    assert_eq!(body(&first.receive(1).await[0]), "after");
}

/// Goal: the same without a word from the worker.
pub async fn what_nobody_waits_for_goes_to_others(ground: &dyn Ground) {
    let transport = ground.transport();
    let first = consumer(&*transport, &["q"], 10);
    publish_all(&*transport, messages("q", 10)).await;
    let held = hold(&*first, 1).await;
    let mut others = all(10);
    others.remove(&body(&held[0]));
    receive_all(&*consumer(&*transport, &["q"], 10), others).await;
}

/// Goal: whoever waits for several things at once may give up waiting. Method: each call is given up at its first
/// pause, many times, while messages come.
pub async fn a_receive_that_is_given_up_loses_nothing(ground: &dyn Ground) {
    let transport = ground.transport();
    let consumer = consumer(&*transport, &["q"], 5);
    let mut missing = all(200);
    let publishing = publish_all(&*transport, messages("q", 200));
    tokio::pin!(publishing);
    let mut is_published = false;
    while !missing.is_empty() {
        tokio::select! {
            deliveries = consumer.receive(5) => {
                for delivery in &deliveries {
                    missing.remove(&body(delivery));
                }
                let tokens = deliveries.iter().map(|delivery| delivery.token).collect();
                let _ = consumer.settle(tokens, Settle::Done).await;
            }
            _ = &mut publishing, if !is_published => is_published = true,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

/// Goal: a worker can be told to serve other queues.
pub async fn other_queues_can_be_listened_to(ground: &dyn Ground) {
    let transport = ground.transport();
    let first = consumer(&*transport, &["a"], 10);
    publish_all(&*transport, vec![message("a", "one")]).await;
    receive_all(&*first, ["one".to_owned()].into()).await;
    first.set_queues(vec!["b".into(), "c".into()]).await;
    publish_all(&*transport, vec![message("a", "two"), message("b", "three"), message("c", "four")]).await;
    receive_all(&*first, ["three".to_owned(), "four".to_owned()].into()).await;
    let second = consumer(&*transport, &["a"], 10);
    tokio::select! {
        deliveries = first.receive(1) => panic!("from a queue that is not listened to: {deliveries:?}"),
        () = receive_all(&*second, ["two".to_owned()].into()) => {}
    }
}

/// Goal: what was confirmed arrives, whatever happens to connections. Method: 10,000 messages over a network on which
/// all connections are cut again and again, while messages are published, received and settled.
pub async fn confirmed_messages_survive_ten_thousand_and_cuts(ground: &dyn Ground) {
    const COUNT: usize = 10_000;
    const CUTS: usize = 12;
    let link = BadLink::start(&ground.host()).await.expect("a port");
    let transport = ground.transport_by(&link.address());
    let publishing = async {
        for (number, chunk) in messages("q", COUNT).chunks(100).enumerate() {
            let (publishing, cutting) = (publish_all(&*transport, chunk.to_vec()), async {
                if number % (COUNT / 100 / CUTS) == 0 {
                    link.cut();
                }
            });
            tokio::join!(publishing, cutting);
        }
    };
    let missing = std::sync::Mutex::new(all(COUNT));
    let receiving = async || {
        let consumer = consumer(&*transport, &["q"], 100);
        while !missing.lock().expect("no panic").is_empty() {
            // The other one may have got the last.
            let Ok(deliveries) = tokio::time::timeout(Duration::from_secs(1), consumer.receive(100)).await
            else {
                continue;
            };
            for delivery in &deliveries {
                missing.lock().expect("no panic").remove(&body(delivery));
            }
            let _ = consumer.settle(deliveries.iter().map(|d| d.token).collect(), Settle::Done).await;
        }
        consumer.health().reconnects
    };
    let ((), first, second) = tokio::join!(publishing, receiving(), receiving());
    assert!(first + second > 1, "no connection was lost, so nothing was shown");
    assert!(transport.health().reconnects > 1, "{:?}", transport.health());
}

/// Goal: everybody hears what is announced. Method: three listeners in two processes' worth of transports; it is said
/// again until all have heard it, as those who listen too late miss it.
pub async fn an_announcement_reaches_all_who_listen(ground: &dyn Ground) {
    let (one, other) = (ground.transport(), ground.transport());
    let mut listeners = [one.subscribe("news"), other.subscribe("news"), other.subscribe("news")];
    let mut elsewhere = one.subscribe("other");
    for listener in &mut listeners {
        loop {
            one.announce("news", b"hear".to_vec()).await.expect("the broker is well");
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(100), listener.next()).await {
                break assert_eq!(heard.as_deref(), Some(&b"hear"[..]));
            }
        }
    }
    assert!(elsewhere.0.try_recv().is_err(), "of another topic");
    // Nobody listens: that is no error.
    one.announce("nobody", b"hear".to_vec()).await.expect("the broker is well");
}

/// Goal: no call waits for ever, and all is well once the network is. Method: a network that swallows everything.
pub async fn a_silent_network_ends_every_call(ground: &dyn Ground) {
    let link = BadLink::start(&ground.host()).await.expect("a port");
    let transport = ground.transport_by(&link.address());
    let consumer = consumer(&*transport, &["q"], 5);
    publish_all(&*transport, messages("q", 1)).await;
    let held = hold(&*consumer, 1).await;
    link.swallow(true);
    let begun = Instant::now();
    let (published, checked, announced, depth) = tokio::join!(
        transport.publish(messages("q", 1)),
        transport.check(),
        transport.announce("t", b"x".to_vec()),
        transport.depth("q"),
    );
    let settled = consumer.settle(vec![held[0].token], Settle::Done).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(25), "the calls took {took:?}");
    assert!(matches!(published[0], Err(TransportError::Unreachable { .. })), "{published:?}");
    assert!(matches!(checked, Err(TransportError::Unreachable { .. })), "{checked:?}");
    assert!(announced.is_err() && depth.is_err());
    // RabbitMQ does not answer to it, so that nobody can know.
    drop(settled);
    assert!(transport.health().last_error.is_some(), "{:?}", transport.health());
    link.swallow(false);
    publish_all(&*transport, vec![message("q", "after")]).await;
    receive_all(&*consumer, ["after".to_owned()].into()).await;
}

/// Goal: people can see how much waits.
pub async fn a_full_queue_is_counted(ground: &dyn Ground) {
    let transport = ground.transport();
    let depth = transport.depth("q").await.expect("the broker is well");
    assert_eq!((depth.ready, depth.unsettled, depth.consumers, depth.oldest), (0, 0, 0, None));
    publish_all(&*transport, messages("q", 7)).await;
    counts(&*transport, |depth| depth.ready == 7).await;
    let consumer = consumer(&*transport, &["q"], 2);
    hold(&*consumer, 2).await;
    counts(&*transport, |depth| (depth.ready, depth.consumers) == (5, 1)).await;
}

/// Goal: a name that cannot be used says so, and does not stop the other messages.
pub async fn names_that_cannot_be_are_refused(ground: &dyn Ground) {
    let transport = ground.transport();
    let bad = [message("", "a"), message("q", "b"), message(&"ä".repeat(101), "c")];
    let answers = transport.publish(bad.to_vec()).await;
    assert!(matches!(answers[0], Err(TransportError::Invalid(_))), "{answers:?}");
    assert!(answers[1].is_ok(), "{answers:?}");
    assert!(matches!(answers[2], Err(TransportError::Invalid(_))), "{answers:?}");
    assert!(transport.depth("").await.is_err());
    // Anything short enough is a name.
    let odd = &QUEUES[4..];
    let named = |queue: &&str| message(queue, queue);
    publish_all(&*transport, odd.iter().map(named).collect()).await;
    let all = odd.iter().map(|queue| (*queue).to_owned()).collect();
    receive_all(&*consumer(&*transport, odd, 10), all).await;
}

/// Goal: people learn what they run on.
pub async fn check_tells_what_the_broker_is(ground: &dyn Ground) {
    let transport = ground.transport();
    let facts = transport.check().await.expect("the broker can serve");
    assert!(facts.server.starts_with(transport.name()), "{facts:?}");
    assert!(facts.server.chars().any(|c| c.is_ascii_digit()), "{facts:?}");
    let nobody = ground.transport_by("127.0.0.1:9");
    let refused = nobody.check().await;
    assert!(matches!(refused, Err(TransportError::Unreachable { .. })), "{refused:?}");
}
