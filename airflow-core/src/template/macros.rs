//! The `macros` object: what Airflow offers templates from Python's library, and its own date helpers.
//!
//! Only `now()`, `time()` and their kin see the present, which the attempt brought along; random numbers and uuids
//! are as random as Airflow's.

use chrono::{DateTime, Utc};
use minijinja::{Error, Value};

use super::args::Args;
use super::datetime;
use super::error::value_error;
use super::json;
use super::values::Thing;

/// Builds the `macros` object for an attempt that renders at `now`.
pub(super) fn macros(now: DateTime<Utc>) -> Thing {
    Thing::new("<module 'airflow.macros'>")
        .with("datetime", datetime_class(now))
        .with("timedelta", timedelta_class())
        .with("dateutil", dateutil(now))
        .with("json", json_module())
        .with("time", time_module(now))
        .with("uuid", uuid_module())
        .with(
            "random",
            Thing::function("random", |args| {
                Args::new("random", args).done()?;
                Ok(Value::from(random()))
            }),
        )
        .method("ds_add", ds_add)
        .method("ds_format", ds_format)
        .method("ds_format_locale", |_| Err(value_error(LOCALES)))
        .with("yaml", yaml_module())
        .method("datetime_diff_for_humans", move |args| {
            let args = Args::new("datetime_diff_for_humans", args);
            let (time, since) = (args.required(0, "dt")?, args.get(1, "since"));
            args.done()?;
            datetime::diff_for_humans(now, &time, since.as_ref())
        })
}

/// Why there is no `ds_format_locale`: the tables of one language are small, those of all are larger than the engine.
const LOCALES: &str = "`macros.ds_format_locale` is not offered: it would take the tables of all languages into every \
                       program; format in a task, or list the names: `{{ ['Jan', 'Feb'][logical_date.month - 1] }}`";

/// Why there is no YAML.
const YAML: &str = "`macros.yaml` is not offered: there is no YAML in this program; JSON is valid YAML, so write \
                    `macros.json.dumps(..)`, and read JSON with `macros.json.loads(..)`";

/// Has the functions that templates use, so that each says why it does not work.
fn yaml_module() -> Value {
    let functions = ["dump", "safe_dump", "load", "safe_load"];
    let module = Thing::new("<module 'yaml'>");
    functions.into_iter().fold(module, |module, name| module.method(name, |_| Err(value_error(YAML)))).value()
}

fn datetime_class(now: DateTime<Utc>) -> Value {
    let mut class = Thing::new("<class 'datetime.datetime'>").callable(datetime::construct);
    for name in [
        "strptime",
        "fromisoformat",
        "now",
        "today",
        "utcnow",
        "fromtimestamp",
        "utcfromtimestamp",
        "combine",
    ] {
        class = class.method(name, move |args| datetime::class_method(now, name, args));
    }
    class.value()
}

fn timedelta_class() -> Value {
    Thing::new("<class 'datetime.timedelta'>").callable(datetime::timedelta).value()
}

fn dateutil(now: DateTime<Utc>) -> Value {
    let today = now.date_naive();
    let parser = Thing::new("<module 'dateutil.parser'>")
        .method("parse", move |args| datetime::parse::parse(today, args))
        .method("isoparse", |args| {
            let args = Args::new("isoparse", args);
            let text = args.text(0, "dt_str")?;
            args.done()?;
            Ok(Value::from_object(datetime::parse::iso(&text)?))
        });
    let relative =
        Thing::new("<module 'dateutil.relativedelta'>").method("relativedelta", datetime::relativedelta);
    let named_zone = |args: &[Value]| {
        let args = Args::new("gettz", args);
        let name = args.text_or(0, "name", "UTC")?;
        args.done()?;
        datetime::zone(&name)
    };
    let mut zones =
        Thing::new("<module 'dateutil.tz'>").method("gettz", named_zone).method("tzutc", named_zone);
    if let Ok(utc) = datetime::zone("UTC") {
        zones = zones.with("UTC", utc);
    }
    Thing::new("<module 'dateutil'>")
        .with("parser", parser.value())
        .with("relativedelta", relative.value())
        .with("tz", zones.value())
        .value()
}

fn json_module() -> Value {
    Thing::new("<module 'json'>")
        .method("dumps", json::dumps)
        .method("loads", |args| {
            let args = Args::new("loads", args);
            let text = args.text(0, "s")?;
            args.done()?;
            json::loads(&text)
        })
        .value()
}

fn time_module(now: DateTime<Utc>) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "Python's time() is a float as well")]
    let seconds = now.timestamp_micros() as f64 / 1_000_000.0;
    let nanoseconds = now.timestamp_nanos_opt().unwrap_or(0);
    Thing::new("<module 'time'>")
        .method("time", move |args| {
            Args::new("time", args).done()?;
            Ok(Value::from(seconds))
        })
        .method("time_ns", move |args| {
            Args::new("time_ns", args).done()?;
            Ok(Value::from(nanoseconds))
        })
        .method("strftime", move |args| {
            let args = Args::new("strftime", args);
            let format = args.text(0, "format")?;
            args.done()?;
            let present = datetime::Stamp::utc_value(now);
            datetime::format_spec(&present, &format).unwrap_or(Ok(String::new())).map(Value::from)
        })
        .value()
}

fn uuid_value(uuid: uuid::Uuid) -> Value {
    Thing::new(uuid.to_string())
        .with("hex", uuid.simple().to_string())
        .with("version", uuid.get_version_num())
        .value()
}

fn uuid_module() -> Value {
    let mut module = Thing::new("<module 'uuid'>")
        .method("UUID", |args| {
            let args = Args::new("UUID", args);
            let text = args.text(0, "hex")?;
            args.done()?;
            let uuid = uuid::Uuid::parse_str(text.trim());
            uuid.map(uuid_value).map_err(|_| value_error("badly formed hexadecimal UUID string"))
        })
        .method("uuid4", |args| {
            Args::new("uuid4", args).done()?;
            Ok(uuid_value(uuid::Uuid::new_v4()))
        })
        .method("uuid5", |args| {
            let args = Args::new("uuid5", args);
            let (space, name) = (args.shown(0, "namespace")?, args.text(1, "name")?);
            args.done()?;
            let space = uuid::Uuid::parse_str(&space)
                .map_err(|_| value_error("uuid5() wants a UUID as namespace"))?;
            Ok(uuid_value(named_uuid(space, &name)))
        });
    for (name, space) in [
        ("NAMESPACE_DNS", uuid::Uuid::NAMESPACE_DNS),
        ("NAMESPACE_URL", uuid::Uuid::NAMESPACE_URL),
        ("NAMESPACE_OID", uuid::Uuid::NAMESPACE_OID),
        ("NAMESPACE_X500", uuid::Uuid::NAMESPACE_X500),
    ] {
        module = module.with(name, uuid_value(space));
    }
    module.value()
}

/// The version 5 UUID of a name: its SHA-1 within a namespace.
fn named_uuid(space: uuid::Uuid, name: &str) -> uuid::Uuid {
    use sha1::Digest as _;
    let hash = sha1::Sha1::new().chain_update(space.as_bytes()).chain_update(name.as_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

fn random() -> f64 {
    // 53 random bits, as many as Python's random() has.
    let bits = u64::try_from(uuid::Uuid::new_v4().as_u128() & ((1 << 48) - 1)).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "48 bits fit a float exactly")]
    let number = bits as f64;
    number / 281_474_976_710_656.0
}

/// `ds_add(ds, days)`.
fn ds_add(args: &[Value]) -> Result<Value, Error> {
    let args = Args::new("ds_add", args);
    let (ds, days) = (args.shown(0, "ds")?, args.required(1, "days")?);
    args.done()?;
    let read = Value::from_object(datetime::strptime(&ds, "%Y-%m-%d")?);
    let moved = super::ops::add(&read, &datetime::timedelta(&[days])?)?;
    Ok(datetime::airflow_filter(&moved, "ds").map(Value::from).unwrap_or_default())
}

/// `ds_format(ds, input_format, output_format)`.
fn ds_format(args: &[Value]) -> Result<Value, Error> {
    let args = Args::new("ds_format", args);
    let ds = args.shown(0, "ds")?;
    let (input, output) = (args.text(1, "input_format")?, args.text(2, "output_format")?);
    args.done()?;
    Ok(Value::from(datetime::formatted(&datetime::strptime(&ds, &input)?, &output)))
}
