//! Whether a RabbitMQ can serve.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeleteOptions};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{BasicProperties, Confirmation};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::link::{Live, declare, step};
use super::options::{QueueKind, Target};
use crate::remote::pace::Health;
use crate::remote::{BrokerFacts, TransportError};

/// The oldest version of which we know that its quorum queues can do all that we ask for.
const OLDEST: (u32, u32) = (3, 10);
/// How long a server may take to say who it is.
const HELLO: Duration = Duration::from_secs(2);
/// The most bytes of that.
const MAX_HELLO: u64 = 16 * 1024;

/// Does once what will be done later.
pub(super) async fn check(target: &Target) -> Result<BrokerFacts, TransportError> {
    let live = Live::make(target, &Health::default()).await?;
    let rehearsed = rehearse(target, &live).await;
    let closed = step(target, "the end of the connection", live.connection.close(200, "done".into())).await;
    rehearsed?;
    closed?;
    let mut version = None;
    for uri in &target.uris {
        version = version.or(said_version(uri).await);
    }
    judge(target, version.as_deref())
        .map_err(|why| TransportError::Unfit { place: target.place.clone(), why })
}

async fn rehearse(target: &Target, live: &Live) -> Result<(), TransportError> {
    // Not a queue of a user.
    let queue = format!("check-{}", uuid::Uuid::new_v4().simple());
    declare(target, &live.connection, &queue).await?;
    let name = target.queue(&queue);
    let all = async {
        let channel = &live.channel;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let kept = BasicProperties::default().with_delivery_mode(2);
        let sent = channel.basic_publish("".into(), name.as_str().into(), options, b"check", kept).await?;
        let confirmed = sent.await?;
        if let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await? {
            channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await?;
        }
        Ok(confirmed)
    };
    let done = step(target, "a message", all).await;
    let gone = step(
        target,
        "the end of a queue",
        live.channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()),
    )
    .await;
    match done? {
        Confirmation::Ack(None) => gone.map(|_| ()),
        other => Err(TransportError::Unfit {
            place: target.place.clone(),
            why: format!("it did not keep a message in a queue that was just made: {other:?}"),
        }),
    }
}

/// What a server says of itself before anything else. Not asked over TLS.
async fn said_version(uri: &AMQPUri) -> Option<String> {
    if uri.scheme == AMQPScheme::AMQPS {
        return None;
    }
    let ask = async {
        let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.ok()?;
        stream.write_all(b"AMQP\0\0\x09\x01").await.ok()?;
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.ok()?;
        let size = u64::from(u32::from_be_bytes([head[3], head[4], head[5], head[6]]));
        let mut frame = Vec::new();
        stream.take(size.min(MAX_HELLO)).read_to_end(&mut frame).await.ok()?;
        version_in(&frame)
    };
    tokio::time::timeout(HELLO, ask).await.ok()?
}

/// The field `version`, a long text, of the table of properties.
fn version_in(frame: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\x07versionS";
    let at = frame.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let (len, rest) = frame.get(at..)?.split_first_chunk::<4>()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn judge(target: &Target, version: Option<&str>) -> Result<BrokerFacts, String> {
    let mut warnings = Vec::new();
    let server = match version {
        Some(version) => {
            let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
            if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
                return Err(format!("it is RabbitMQ {version}; 3.10 or newer is needed"));
            }
            format!("rabbitmq {version}")
        }
        None => "rabbitmq".to_owned(),
    };
    if target.kind() == QueueKind::Classic {
        warnings.push(
            "queues are classic: the loss of their node loses what is queued, which is sent again when it is overdue"
                .into(),
        );
    }
    let (max_length, delivery_limit) = target.limits();
    let settings = vec![
        ("queue type".to_owned(), target.kind().name().to_owned()),
        ("max length".to_owned(), max_length.map_or("none".to_owned(), |most| most.to_string())),
        ("delivery limit".to_owned(), delivery_limit.to_string()),
        ("set aside in".to_owned(), target.dead()),
    ];
    Ok(BrokerFacts { server, settings, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::rabbitmq::RabbitmqOptions;

    #[test]
    fn the_version_is_found_in_what_a_server_says() {
        let said =
            b"\0\x0a\0\x0a\0\x09\0\0\x01\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8\x01x";
        assert_eq!(version_in(said).as_deref(), Some("3.10.8"));
        for end in 0..said.len() {
            let _ = version_in(&said[..end]);
        }
        assert_eq!(version_in(b"\x07versionS\xff\xff\xff\xff1"), None);
    }

    #[test]
    fn what_is_too_old_is_refused() {
        let target = RabbitmqOptions::new("amqp://h").queue_kind(QueueKind::Classic).target().unwrap();
        assert!(judge(&target, Some("3.9.29")).unwrap_err().contains("3.10 or newer"));
        for version in ["3.10.0", "4.3.1", "10.0.0"] {
            let facts = judge(&target, Some(version)).unwrap();
            assert_eq!((facts.server, facts.warnings.len()), (format!("rabbitmq {version}"), 1));
        }
        assert_eq!(judge(&target, None).unwrap().server, "rabbitmq");
    }
}
