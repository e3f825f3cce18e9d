//! Python's operators: the reserved filters that `rewrite` writes for `+`, `%`, `<`, slices and the like.
//!
//! Each is a pure function of its operands; a result that would be too large is refused before it is made.

use std::cmp::Ordering;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Environment, Error, State, UndefinedBehavior, Value};

use super::containers::{self, List, is_dict};
use super::error::{TemplateErrorKind, raise, type_error, undefined, value_error};
use super::py::{MAX_TEXT, as_float, as_int, class_of, int_value, is_seq, items, to_str, too_large};
use super::{datetime, format};

/// The longest list that `*`, `+` or a filter may make.
pub(super) const MAX_ITEMS: usize = 1_000_000;

/// Attributes that every Python object has and that the sandbox therefore refuses instead of calling undefined.
const INTERNAL: [&str; 36] = [
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
    "__add__",
    "__contains__",
    "__getitem__",
    "__iter__",
    "__len__",
    "__mul__",
    "__dict__",
    "__module__",
    "__globals__",
    "__code__",
    "__call__",
    "__self__",
];

/// Registers the reserved filters.
pub(super) fn register(env: &mut Environment<'_>) {
    env.add_filter("__add", |a: &Value, b: &Value| add(a, b));
    env.add_filter("__sub", |a: &Value, b: &Value| sub(a, b));
    env.add_filter("__mul", |a: &Value, b: &Value| mul(a, b));
    env.add_filter("__div", |a: &Value, b: &Value| div(a, b));
    env.add_filter("__floordiv", |a: &Value, b: &Value| floor_div(a, b));
    env.add_filter("__mod", |a: &Value, b: &Value| modulo(a, b));
    env.add_filter("__pow", |a: &Value, b: &Value| pow(a, b));
    env.add_filter("__neg", |a: &Value| negate(a));
    env.add_filter("__pos", |a: &Value| number(a).map(|_| a.clone()));
    env.add_filter("__concat", concat_operator);
    env.add_filter("__lt", |a: &Value, b: &Value| compare(a, b, "<").map(Ordering::is_lt));
    env.add_filter("__le", |a: &Value, b: &Value| compare(a, b, "<=").map(Ordering::is_le));
    env.add_filter("__gt", |a: &Value, b: &Value| compare(a, b, ">").map(Ordering::is_gt));
    env.add_filter("__ge", |a: &Value, b: &Value| compare(a, b, ">=").map(Ordering::is_ge));
    env.add_filter("__in", |state: &State<'_, '_>, a: &Value, b: &Value| contains(state, b, a));
    env.add_filter("__not_in", |state: &State<'_, '_>, a: &Value, b: &Value| {
        contains(state, b, a).map(|found| !found)
    });
    env.add_filter("__slice", |a: &Value, from: &Value, to: &Value, by: &Value| slice(a, from, to, by));
    env.add_filter("__mutable", |a: &Value| containers::mutable(a));
    env.add_filter("__bounded", |a: &Value| containers::may_hold(None, a).map(|()| a.clone()));
    env.add_filter("__internal", internal);
}

/// `value.__name__`: refused if Python has such an attribute, else a key of a dict or undefined.
fn internal(value: &Value, name: &str) -> Result<Value, Error> {
    forbid_internal(value, name)?;
    if value.is_undefined() {
        return Err(undefined(format!("an undefined value has no attribute '{name}'")));
    }
    Ok(value.get_item(&Value::from(name)).unwrap_or_default())
}

/// Refuses the attributes that the sandbox calls unsafe.
pub(super) fn forbid_internal(value: &Value, name: &str) -> Result<(), Error> {
    if INTERNAL.contains(&name) {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe", class_of(value));
        return Err(raise(TemplateErrorKind::Forbidden, message));
    }
    Ok(())
}

fn unsupported(op: &str, a: &Value, b: &Value) -> Error {
    if a.is_undefined() || b.is_undefined() {
        return undefined(format!("an operand of `{op}` is undefined"));
    }
    type_error(format!("unsupported operand type(s) for {op}: '{}' and '{}'", class_of(a), class_of(b)))
}

fn number(value: &Value) -> Result<f64, Error> {
    match as_float(value) {
        Some(number) => Ok(number),
        None if value.is_undefined() => Err(undefined("the operand is undefined")),
        None => Err(type_error(format!("bad operand type: '{}'", class_of(value)))),
    }
}

fn overflow() -> Error {
    raise(TemplateErrorKind::Overflow, "the integer does not fit 128 bits")
}

fn zero(what: &str) -> Error {
    raise(TemplateErrorKind::DivisionByZero, what)
}

/// Both operands as integers, or both as floats.
enum Pair {
    Ints(i128, i128),
    Floats(f64, f64),
}

fn numbers(a: &Value, b: &Value) -> Option<Pair> {
    match (as_int(a), as_int(b)) {
        (Some(a), Some(b)) => Some(Pair::Ints(a, b)),
        _ => Some(Pair::Floats(as_float(a)?, as_float(b)?)),
    }
}

pub(super) fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::add(a, b) {
        return result;
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return if a.len() + b.len() > MAX_TEXT {
            Err(too_large())
        } else {
            Ok(Value::from([a, b].concat()))
        };
    }
    if is_seq(a) && is_seq(b) && a.is_tuple() == b.is_tuple() {
        let mut both = items(a)?;
        both.extend(items(b)?);
        return sequence(both, a.is_tuple());
    }
    match numbers(a, b) {
        Some(Pair::Ints(a, b)) => a.checked_add(b).map(int_value).ok_or_else(overflow),
        Some(Pair::Floats(a, b)) => Ok(Value::from(a + b)),
        None => Err(unsupported("+", a, b)),
    }
}

fn sequence(values: Vec<Value>, tuple: bool) -> Result<Value, Error> {
    if values.len() > MAX_ITEMS {
        return Err(too_large());
    }
    Ok(if tuple { Value::from(Tuple::from(values)) } else { List::value(values) })
}

fn sub(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::sub(a, b) {
        return result;
    }
    match numbers(a, b) {
        Some(Pair::Ints(a, b)) => a.checked_sub(b).map(int_value).ok_or_else(overflow),
        Some(Pair::Floats(a, b)) => Ok(Value::from(a - b)),
        None => Err(unsupported("-", a, b)),
    }
}

fn mul(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::mul(a, b) {
        return result;
    }
    for (repeated, count) in [(a, b), (b, a)] {
        let Some(count) = as_int(count) else { continue };
        let count = usize::try_from(count.max(0)).map_err(|_| overflow())?;
        if let Some(text) = repeated.as_str() {
            let fits = text.len().checked_mul(count).is_some_and(|length| length <= MAX_TEXT);
            return if fits { Ok(Value::from(text.repeat(count))) } else { Err(too_large()) };
        }
        if is_seq(repeated) {
            let values = items(repeated)?;
            if values.len().checked_mul(count).is_none_or(|length| length > MAX_ITEMS) {
                return Err(too_large());
            }
            return sequence(vec![values; count].concat(), repeated.is_tuple());
        }
    }
    match numbers(a, b) {
        Some(Pair::Ints(a, b)) => a.checked_mul(b).map(int_value).ok_or_else(overflow),
        Some(Pair::Floats(a, b)) => Ok(Value::from(a * b)),
        None => Err(unsupported("*", a, b)),
    }
}

fn div(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::div(a, b) {
        return result;
    }
    let (Some(x), Some(y)) = (as_float(a), as_float(b)) else { return Err(unsupported("/", a, b)) };
    if y == 0.0 {
        let floats = as_int(a).is_none() || as_int(b).is_none();
        return Err(zero(if floats { "float division by zero" } else { "division by zero" }));
    }
    Ok(Value::from(x / y))
}

fn floor_div(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::floor_div(a, b) {
        return result;
    }
    match numbers(a, b) {
        Some(Pair::Ints(_, 0)) => Err(zero("integer division or modulo by zero")),
        Some(Pair::Ints(a, b)) => {
            floor_parts(a, b).map(|(quotient, _)| int_value(quotient)).ok_or_else(overflow)
        }
        Some(Pair::Floats(_, 0.0)) => Err(zero("float floor division by zero")),
        Some(Pair::Floats(a, b)) => Ok(Value::from((a / b).floor())),
        None => Err(unsupported("//", a, b)),
    }
}

fn floor_parts(a: i128, b: i128) -> Option<(i128, i128)> {
    let (quotient, remainder) = (a.checked_div(b)?, a.checked_rem(b)?);
    Some(if remainder != 0 && (remainder < 0) != (b < 0) {
        (quotient - 1, remainder + b)
    } else {
        (quotient, remainder)
    })
}

fn modulo(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        return format::percent(text, b);
    }
    match numbers(a, b) {
        Some(Pair::Ints(_, 0)) => Err(zero("integer modulo by zero")),
        Some(Pair::Ints(a, b)) => {
            floor_parts(a, b).map(|(_, remainder)| int_value(remainder)).ok_or_else(overflow)
        }
        Some(Pair::Floats(_, 0.0)) => Err(zero("float modulo")),
        Some(Pair::Floats(a, b)) => {
            let remainder = a % b;
            let wrong_sign = remainder != 0.0 && (remainder < 0.0) != (b < 0.0);
            Ok(Value::from(if wrong_sign { remainder + b } else { remainder }))
        }
        None => Err(unsupported("%", a, b)),
    }
}

fn pow(a: &Value, b: &Value) -> Result<Value, Error> {
    match numbers(a, b) {
        Some(Pair::Ints(a, b)) if b >= 0 => {
            let exponent = u32::try_from(b).map_err(|_| overflow())?;
            a.checked_pow(exponent).map(int_value).ok_or_else(overflow)
        }
        Some(Pair::Ints(0, _)) => Err(zero("zero to a negative power")),
        Some(Pair::Floats(a, b)) if a == 0.0 && b < 0.0 => Err(zero("zero to a negative power")),
        Some(_) => Ok(Value::from(number(a)?.powf(number(b)?))),
        None => Err(unsupported("**", a, b)),
    }
}

fn negate(a: &Value) -> Result<Value, Error> {
    if let Some(result) = datetime::negate(a) {
        return result;
    }
    match as_int(a) {
        Some(n) => n.checked_neg().map(int_value).ok_or_else(overflow),
        None => number(a).map(|n| Value::from(-n)),
    }
}

/// `item in container`.
pub(super) fn contains(state: &State<'_, '_>, container: &Value, item: &Value) -> Result<bool, Error> {
    let strict = state.undefined_behavior() == UndefinedBehavior::Strict;
    if strict && (container.is_undefined() || item.is_undefined()) {
        return Err(undefined("an operand of `in` is undefined"));
    }
    if let Some(text) = container.as_str() {
        let class = class_of(item);
        let message = || type_error(format!("'in <string>' requires string as left operand, not {class}"));
        return item.as_str().map(|part| text.contains(part)).ok_or_else(message);
    }
    if is_dict(container) {
        return Ok(container.as_object().is_some_and(|dict| dict.get_value(item).is_some()));
    }
    if is_seq(container) {
        return Ok(items(container)?.contains(item));
    }
    if container.is_undefined() {
        return Ok(false);
    }
    Err(type_error(format!("argument of type '{}' is not iterable", class_of(container))))
}

fn concat_operator(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if state.undefined_behavior() == UndefinedBehavior::Strict && (a.is_undefined() || b.is_undefined()) {
        return Err(undefined("an operand of `~` is undefined"));
    }
    let (a, b) = (to_str(a)?, to_str(b)?);
    if a.len() + b.len() > MAX_TEXT { Err(too_large()) } else { Ok(Value::from(a + &b)) }
}

/// Python's order of two values.
///
/// # Errors
///
/// Values that Python cannot order; `op` is the operator the error names.
pub(super) fn compare(a: &Value, b: &Value, op: &str) -> Result<Ordering, Error> {
    compare_at(a, b, op, 0)
}

fn compare_at(a: &Value, b: &Value, op: &str, depth: usize) -> Result<Ordering, Error> {
    if depth > super::py::MAX_DEPTH {
        return Err(super::py::too_deep());
    }
    match numbers(a, b) {
        Some(Pair::Ints(a, b)) => return Ok(a.cmp(&b)),
        // Python orders NaN nowhere; a total order keeps sorting well defined.
        Some(Pair::Floats(a, b)) => return Ok(a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))),
        None => {}
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(a.cmp(b));
    }
    if let Some(ordering) = datetime::compare(a, b) {
        return ordering;
    }
    if is_seq(a) && is_seq(b) && a.is_tuple() == b.is_tuple() {
        let (left, right) = (items(a)?, items(b)?);
        for (x, y) in left.iter().zip(&right) {
            if x != y {
                return compare_at(x, y, op, depth + 1);
            }
        }
        return Ok(left.len().cmp(&right.len()));
    }
    if a.is_undefined() || b.is_undefined() {
        return Err(undefined(format!("an operand of `{op}` is undefined")));
    }
    let (a, b) = (class_of(a), class_of(b));
    Err(type_error(format!("'{op}' not supported between instances of '{a}' and '{b}'")))
}

/// `value[from:to:by]`.
fn slice(value: &Value, from: &Value, to: &Value, by: &Value) -> Result<Value, Error> {
    let bound = |part: &Value| match part.kind() {
        ValueKind::None => Ok(None),
        ValueKind::Undefined => Err(undefined("a part of the slice is undefined")),
        _ => as_int(part).map(Some).ok_or_else(|| type_error("slice indices must be integers or None")),
    };
    let by = bound(by)?.unwrap_or(1);
    if by == 0 {
        return Err(value_error("slice step cannot be zero"));
    }
    let pick =
        |length: usize| -> Result<Vec<usize>, Error> { Ok(places(length, bound(from)?, bound(to)?, by)) };
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(pick(chars.len())?.into_iter().map(|i| chars[i]).collect::<String>()));
    }
    if is_seq(value) {
        let values = items(value)?;
        let picked = pick(values.len())?.into_iter().map(|i| values[i].clone()).collect();
        return sequence(picked, value.is_tuple());
    }
    if value.is_undefined() {
        return Err(undefined("the sliced value is undefined"));
    }
    if is_dict(value) {
        return Err(undefined("a dict cannot be sliced"));
    }
    Err(undefined(format!("'{}' object cannot be sliced", class_of(value))))
}

/// The indices that Python's slice picks from a sequence of `length`.
fn places(length: usize, from: Option<i128>, to: Option<i128>, by: i128) -> Vec<usize> {
    let size = i128::try_from(length).expect("a length fits 128 bits");
    let (low, high) = if by > 0 { (0, size) } else { (-1, size - 1) };
    let clamp = |bound: i128| (if bound < 0 { bound.saturating_add(size) } else { bound }).clamp(low, high);
    let start = from.map_or(if by > 0 { low } else { high }, clamp);
    let stop = to.map_or(if by > 0 { high } else { low }, clamp);
    let mut picked = Vec::new();
    let mut at = start;
    while if by > 0 { at < stop } else { at > stop } {
        picked.push(usize::try_from(at).expect("a clamped index lies within the sequence"));
        at = at.saturating_add(by);
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_and_remainder_round_towards_minus_infinity() {
        for (a, b, quotient, remainder) in [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1)] {
            let (a, b) = (Value::from(a), Value::from(b));
            assert_eq!(floor_div(&a, &b).expect("the divisor is not zero"), Value::from(quotient));
            assert_eq!(modulo(&a, &b).expect("the divisor is not zero"), Value::from(remainder));
        }
    }

    #[test]
    fn slices_pick_what_python_picks() {
        for (from, to, by, expected) in [
            (None, None, 1, "abcde"),
            (None, Some(2), 1, "ab"),
            (Some(-2), None, 1, "de"),
            (None, None, -1, "edcba"),
            (Some(3), Some(0), -1, "dcb"),
            (Some(10), None, -2, "eca"),
            (Some(1), Some(100), 2, "bd"),
            (Some(-100), Some(-4), 1, "a"),
        ] {
            let picked: String =
                places(5, from, to, by).into_iter().map(|i| "abcde".as_bytes()[i] as char).collect();
            assert_eq!(picked, expected, "{from:?}:{to:?}:{by}");
        }
    }

    #[test]
    fn results_that_would_be_too_large_are_refused() {
        let (text, many) = (Value::from("ab"), Value::from(i64::MAX));
        assert!(mul(&text, &many).is_err());
        assert!(mul(&List::value(vec![text]), &Value::from(MAX_ITEMS + 1)).is_err());
        assert!(pow(&Value::from(10), &Value::from(1000)).is_err());
    }
}
