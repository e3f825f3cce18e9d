//! Numbers as Python's `int` and `float` read them: blanks around, `_` between digits, digits of any script.

/// The zeros of the scripts whose digits Python reads; nine more digits follow each.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50,
    0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0,
    0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50,
    0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140,
    0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Whether Python's `strip` takes a character away.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// What Python's `strip` leaves.
pub(crate) fn python_strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// The text without blanks around it and with digits of ASCII, without `_` between digits.
fn plain(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut underscore = false;
    for c in python_strip(text).chars() {
        let zero = ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&u32::from(c)));
        let c = zero.and_then(|zero| char::from_digit(u32::from(c) - zero, 10)).unwrap_or(c);
        let after_digit = plain.ends_with(|last: char| last.is_ascii_digit());
        match c {
            '_' if after_digit && !underscore => underscore = true,
            '_' => return None,
            c if underscore && !c.is_ascii_digit() => return None,
            c => {
                underscore = false;
                plain.push(c);
            }
        }
    }
    (!underscore).then_some(plain)
}

/// What Python's `int(text)` is, as digits with `-` in front of a negative one; `None` if it is none.
pub(crate) fn python_int(text: &str) -> Option<String> {
    let plain = plain(text)?;
    let (sign, digits) = match plain.strip_prefix(['+', '-']) {
        Some(digits) => (if plain.starts_with('-') { "-" } else { "" }, digits),
        None => ("", plain.as_str()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match digits.trim_start_matches('0') {
        "" => Some("0".to_owned()),
        digits => Some(format!("{sign}{digits}")),
    }
}

/// What Python's `float(text)` is; `None` if it is none.
pub(crate) fn python_float(text: &str) -> Option<f64> {
    // Rust reads the same forms otherwise, `inf`, `infinity` and `nan` included.
    plain(text)?.parse().ok()
}
