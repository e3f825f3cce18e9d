use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Goal: a secret is hidden in whatever form it reaches a log. Method: the forms that programs make of it, by the
/// libraries that make them.
#[test]
fn a_secret_is_hidden_in_every_form_it_travels_in() {
    let secret = "p@ss \"w\u{f6}rd\"/+\\1";
    let masker = Masker::default();
    masker.add(secret);
    let url = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    for text in [
        secret.to_owned(),
        format!("{secret:?}"),
        json!({ "field": secret }).to_string(),
        json!({ "text": json!(secret).to_string() }).to_string(),
        r#"p@ss \"w\u00f6rd\"/+\\1"#.to_owned(),
        "p%40ss%20%22w%C3%B6rd%22/%2B%5C1".to_owned(),
        "p%40ss+%22w%C3%B6rd%22%2F%2B%5C1".to_owned(),
        "p%40ss%20%22w%c3%b6rd%22%2f%2b%5c1".to_owned(),
        url,
        STANDARD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
    ] {
        let masked = masker.mask(&text).into_owned();
        assert!(masked.contains(HIDDEN), "{text}");
        assert!(!masked.contains("ss") && !masked.contains("rd"), "{text} became {masked}");
    }
}

#[test]
fn lines_of_a_long_secret_are_hidden_one_by_one() {
    let masker = Masker::default();
    masker.add("-----BEGIN KEY-----\nMIIEvQIBADANBg\nshort\n");
    assert_eq!(masker.mask("line: MIIEvQIBADANBg"), "line: ***");
    assert_eq!(masker.mask("a short one"), "a short one");
}

#[test]
fn what_stands_under_a_sensitive_name_is_hidden_in_json() {
    let masker = Masker::default();
    let extra = json!({ "host": "example", "Api_Key": "k3y-k3y", "nested": { "secrets": ["one-1", { "a": 123_456 }] } });
    masker.add_json("extra", &extra);
    assert_eq!(masker.mask("example k3y-k3y one-1 123456"), "example *** *** ***");
    let shown = masker.mask_json("extra", &extra);
    assert_eq!(
        shown,
        json!({ "host": "example", "Api_Key": "***", "nested": { "secrets": ["***", { "a": "***" }] } })
    );
    assert_eq!(masker.mask_json("db_password", &json!("x")), json!("***"));
}

#[test]
fn names_can_be_added_and_names_can_be_ignored() {
    let more = MaskRules { more_names: vec!["iban".into()], ..MaskRules::default() };
    assert!(more.is_sensitive("Customer_IBAN") && more.is_sensitive("my-token-2"));
    assert!(!more.is_sensitive("region"));
    let none = MaskRules { by_name: false, ..more };
    assert!(!none.is_sensitive("password"));
}

#[test]
fn short_texts_are_not_hidden() {
    let masker = Masker::default();
    masker.add("abcd");
    masker.add("");
    assert_eq!(masker.mask("abcd"), "abcd");
}

proptest! {
    /// Goal: no secret is left in what was masked. Method: any secrets in any text, also beside and inside of each other.
    #[test]
    fn no_secret_is_left(
        secrets in prop::collection::vec("[a-c\u{e9}%\"/ ]{5,9}", 1..6),
        words in prop::collection::vec("[a-c ]{0,4}", 7),
    ) {
        let masker = Masker::default();
        secrets.iter().for_each(|secret| masker.add(secret));
        let mut text = words[0].clone();
        for (secret, word) in secrets.iter().zip(&words[1..]) {
            text += secret;
            text += word;
        }
        let masked = masker.mask(&text);
        for secret in &secrets {
            prop_assert!(!masked.contains(secret.as_str()), "{secret:?} is left in {masked:?}");
        }
    }
}
