//! What the tests of all brokers use.

use std::time::Duration;

use airflow_executors::remote::testing::suite::{PATIENCE, publish_all};
use airflow_executors::remote::{Consumer, Message, Settle, Transport};

/// A message to the queue `q`.
pub(crate) fn message(body: &str) -> Vec<Message> {
    vec![Message { queue: "q".into(), body: body.into() }]
}

/// Publishes until one of a body arrives, again every second: what was published while a queue or a broker went away may
/// be lost, even if it was confirmed before.
pub(crate) async fn comes(transport: &dyn Transport, consumer: &dyn Consumer, text: &str) {
    let arriving = async {
        loop {
            publish_all(transport, message(text)).await;
            let receiving = tokio::time::timeout(Duration::from_secs(1), consumer.receive(10));
            let Ok(deliveries) = receiving.await else { continue };
            let is_there = deliveries.iter().any(|delivery| delivery.body == text.as_bytes());
            let _ = consumer.settle(deliveries.iter().map(|d| d.token).collect(), Settle::Done).await;
            if is_there {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, arriving).await;
    assert!(in_time.is_ok(), "`{text}` does not come: {:?}, {:?}", transport.health(), consumer.health());
}

/// An authority, and a certificate of it for `localhost`, in a folder; and the authority's own in PEM.
pub(crate) fn certificates() -> (tempfile::TempDir, String) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let folder = tempfile::tempdir().unwrap();
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    // Of one name, OpenSSL takes the other certificate for its own issuer.
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let ca = authority.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(authority, ca_key);
    let mut own = CertificateParams::new(vec!["localhost".into()]).unwrap();
    own.distinguished_name.push(DnType::CommonName, "localhost");
    let cert = own.signed_by(&key, &issuer).unwrap();
    for (name, pem) in [("ca.pem", ca.clone()), ("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(folder.path().join(name), pem).unwrap();
    }
    (folder, ca)
}
