//! What the settings say of a broker is what its client gets.

use airflow_core::config::Config;

use super::*;

fn options(text: &str) -> Options {
    Options::read(&Config::parse(text).expect("a file of settings"), "home").expect("settings")
}

/// The addresses, or why there are none.
fn urls(text: &str) -> Result<String, String> {
    let found = addresses(&options(text)).map_err(|error| error.to_string())?;
    let urls: Vec<String> = found.1.into_iter().map(Secret::into_exposed).collect();
    Ok(format!("{:?} {}", found.0, urls.join(" ")))
}

#[test]
fn addresses_are_read_as_celery_has_them() {
    const TLS: &str = "\nssl_active = True";
    for (text, wanted) in [
        ("broker_url = redis://:p@h:1/2", "Redis redis://:p@h:1/2"),
        ("broker_url = amqp://u:p@a/x; pyamqp://u:p@b/x;", "Rabbitmq amqp://u:p@a/x amqp://u:p@b/x"),
        (&format!("broker_url = amqp://a/x;amqp://b/x{TLS}"), "Rabbitmq amqps://a/x amqps://b/x"),
        (&format!("broker_url = redis://h/0{TLS}"), "Redis rediss://h/0"),
        (&format!("broker_url = rediss://h/0{TLS}"), "Redis rediss://h/0"),
        (
            "broker_url = sentinel://:p@a:1;sentinel://:p@b:2/3\n[celery_broker_transport_options]\nmaster_name = m\n\
             sentinel_kwargs = {\"password\": \"p&s\"}",
            "Redis sentinel://:p@a:1,b:2/3?master=m&sentinel_password=p%26s",
        ),
        (
            "broker_url = sentinel://a,b/0?master=x\n[celery_broker_transport_options]\nmaster_name = m",
            "Redis sentinel://a,b/0?master=x",
        ),
    ] {
        assert_eq!(urls(&format!("[celery]\n{text}\n")).as_deref(), Ok(wanted), "{text}");
    }
    for (text, why) in [
        ("", "no broker is set"),
        ("broker_url = broker:6379", "begins with the kind of the broker"),
        ("broker_url = sqs://x", "`sqs://` is no broker"),
        ("broker_url = redis://a;redis://b", "only one Redis can be named"),
        ("broker_url = redis://a;amqp://b", "of several kinds"),
    ] {
        let refused = urls(&format!("[celery]\n{text}\n")).expect_err(text);
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn certificates_are_read_from_their_files() {
    let folder = std::env::temp_dir().join(format!("airflow-cli-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).expect("a folder");
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, format!("-----BEGIN CERTIFICATE----- PRIVATE KEY----- {name}"))
            .expect("written");
        path.display().to_string()
    };
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    let text = |more: &str| {
        let files = format!("ssl_cacert = {ca}\nssl_cert = {cert}\nssl_key = {key}");
        format!("[celery]\nbroker_url = redis://h/0\n{files}\n{more}\n")
    };
    let wanted = |text: &str| Wanted::of(&options(text)).map_err(|error| error.to_string());
    let all = wanted(&text("ssl_active = True")).expect("they are there");
    assert!(all.ca.as_deref().is_some_and(|pem| pem.ends_with("ca")));
    let (certificate, secret) = all.identity.expect("both are there");
    assert!(certificate.ends_with("cert") && secret.expose().ends_with("key"));
    let one_way = wanted(&text("ssl_active = True\nssl_mutual_tls = False")).expect("they are there");
    assert!(one_way.ca.is_some() && one_way.identity.is_none());
    let plain = wanted(&text("")).expect("nobody asks for TLS");
    assert!(plain.ca.is_none() && plain.identity.is_none());
    let half = format!("[celery]\nbroker_url = redis://h/0\nssl_active = True\nssl_cert = {cert}\n");
    assert!(wanted(&half).expect_err("half of it").contains("belong together"));
    let gone = "[celery]\nbroker_url = redis://h/0\nssl_active = True\nssl_cacert = /not/there\n";
    let gone = wanted(gone).expect_err("no such file");
    assert!(gone.starts_with("celery.ssl_cacert: cannot read /not/there: "), "{gone}");
    std::fs::remove_dir_all(folder).expect("it was ours");
}

#[cfg(feature = "redis")]
#[test]
fn redis_gets_what_is_said_of_it() {
    let shown = |text: &str| {
        let all = options(&format!("[celery]\nbroker_url = redis://h/0\n{text}\n"));
        let wanted = Wanted::of(&all).expect("it is sound");
        format!("{:?}", redis_options(&all, wanted))
    };
    assert!(shown("").contains("prefix: \"airflow:\""));
    let celery = "[celery_broker_transport_options]\nglobal_keyprefix = theirs";
    assert!(shown(celery).contains("prefix: \"theirs\""));
    assert!(shown(&format!("{celery}\n[broker]\nprefix = ours:")).contains("prefix: \"ours:\""));
}

#[cfg(feature = "rabbitmq")]
#[test]
fn rabbitmq_gets_what_is_said_of_it() {
    let shown = |text: &str| {
        let all = options(&format!("[celery]\nbroker_url = amqp://u:pa55@a/;amqp://u:pa55@b/\n{text}\n"));
        let wanted = Wanted::of(&all).expect("it is sound");
        format!("{:?}", rabbitmq_options(&all, wanted))
    };
    let usual = shown("");
    for part in ["airflow.", "Quorum", "max_length: None", "delivery_limit: 50"] {
        assert!(usual.contains(part), "{part}: {usual}");
    }
    let said = shown("[broker]\nprefix = ours.\nqueue_type = classic\nmax_length = 9\ndelivery_limit = 7");
    for part in ["ours.", "Classic", "max_length: Some(9)", "delivery_limit: 7"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("pa55"), "{said}");
}
