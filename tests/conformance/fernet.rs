//! Fernet tokens and keys.

use airflow_core::fernet::{Fernet, FernetError};
use serde_json::{Value, json};

use super::report::{field, same};

pub(crate) fn check(case: &Value) -> Result<(), String> {
    match field(case, "group") {
        "encrypt_with_fixed_time_and_iv" => encrypt(case),
        "decrypt" | "tampered_or_odd" | "multi_key_decrypt" => decrypt(case),
        "rotate" => rotate(case),
        "key_validity" => key_validity(case),
        other => Err(format!("no group `{other}`")),
    }
}

fn encrypt(case: &Value) -> Result<(), String> {
    let hex = field(case, "iv_hex");
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex digits");
    let vector = std::array::from_fn(byte);
    let fernet = Fernet::new(field(case, "key")).expect("a key");
    let seconds = case["timestamp"].as_u64().expect("a time");
    let token = fernet.encrypt_with(field(case, "plaintext"), seconds, vector);
    same(&field(case, "expected_token"), &token.as_str())
}

fn decrypt(case: &Value) -> Result<(), String> {
    let fernet = Fernet::new(field(case, "fernet_key")).expect("keys");
    let got = match fernet.decrypt(field(case, "token")) {
        Ok(plaintext) => json!({ "plaintext": plaintext }),
        Err(FernetError::InvalidToken { .. }) => json!({ "raises": "InvalidToken" }),
        Err(other) => json!({ "raises": other.to_string() }),
    };
    same(&case["expected"], &got)
}

fn rotate(case: &Value) -> Result<(), String> {
    let keys = field(case, "fernet_key");
    let (fernet, token) = (Fernet::new(keys).expect("keys"), field(case, "token"));
    let first = Fernet::new(keys.split(',').next().unwrap_or_default()).expect("a key");
    let mut expected = case["expected"].clone();
    let recorded = expected["an_example_rotated_token"].take();
    let rotated = match fernet.rotate(token) {
        Ok(rotated) => rotated,
        Err(error) => return same(&expected["raises"].as_str(), &Some(&error.to_string())),
    };
    let got = json!({
        "plaintext": fernet.decrypt(&rotated).ok(),
        "decrypts_with_first_key_only": first.decrypt(&rotated).is_ok(),
        "timestamp_preserved": first.timestamp(&rotated) == fernet.timestamp(token),
        "an_example_rotated_token": null,
    });
    same(&expected, &got)?;
    // What Airflow rotated can be read too.
    match recorded.as_str() {
        Some(recorded) => same(&expected["plaintext"], &json!(first.decrypt(recorded).ok())),
        None => Ok(()),
    }
}

fn key_validity(case: &Value) -> Result<(), String> {
    let got = match Fernet::new(field(case, "fernet_key")) {
        Ok(fernet) if !fernet.is_encrypting() => json!({ "accepted": true, "encrypts": false }),
        Ok(fernet) => {
            json!({ "accepted": true, "encrypts": true, "number_of_keys": fernet.key_count() })
        }
        Err(FernetError::BadKey { .. }) => json!({ "accepted": false, "raises": "AirflowException" }),
        Err(other) => json!({ "accepted": false, "raises": other.to_string() }),
    };
    let mut expected = case["expected"].clone();
    if expected["encrypts"] == json!(false)
        && let Some(fields) = expected.as_object_mut()
    {
        fields.retain(|name, _| name == "accepted" || name == "encrypts");
    }
    same(&expected, &got)
}
