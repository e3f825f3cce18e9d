//! Checks the values of options as far as they are literals; any other expression is left to the compiler.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Expr, ExprLit, ExprUnary, Ident, Lit, UnOp};

use crate::args::{Arg, Value};
use crate::errors::Errors;
use crate::keys::{self, Kind};

/// The names of the trigger rules as text and as variants. A test of the `airflow` crate holds them to its own list.
const TRIGGER_RULES: &[(&str, &str)] = &[
    ("all_success", "AllSuccess"),
    ("all_failed", "AllFailed"),
    ("all_done", "AllDone"),
    ("all_done_min_one_success", "AllDoneMinOneSuccess"),
    ("all_done_setup_success", "AllDoneSetupSuccess"),
    ("all_skipped", "AllSkipped"),
    ("one_success", "OneSuccess"),
    ("one_failed", "OneFailed"),
    ("one_done", "OneDone"),
    ("none_failed", "NoneFailed"),
    ("none_failed_min_one_success", "NoneFailedMinOneSuccess"),
    ("none_skipped", "NoneSkipped"),
    ("always", "Always"),
    // Names of older versions.
    ("dummy", "Always"),
    ("none_failed_or_skipped", "NoneFailedMinOneSuccess"),
];

const WEIGHT_RULES: &[(&str, &str)] =
    &[("downstream", "Downstream"), ("upstream", "Upstream"), ("absolute", "Absolute")];

const SENSOR_MODES: &[(&str, &str)] =
    &[("poke", "Poke"), ("reschedule", "Reschedule"), ("deferred", "Deferred")];
const ISOLATIONS: &[(&str, &str)] = &[("none", "None"), ("process", "Process")];

/// The value of an option as expressions for its setter: one, several for a list of callbacks, none after a mistake.
pub(crate) fn check(arg: &Arg, private: &TokenStream, errors: &mut Errors) -> Vec<TokenStream> {
    match check_value(arg, private, errors) {
        Ok(values) => values,
        Err(error) => {
            errors.add(error);
            Vec::new()
        }
    }
}

fn check_value(arg: &Arg, private: &TokenStream, errors: &mut Errors) -> syn::Result<Vec<TokenStream>> {
    let expr = match &arg.value {
        Value::Expr(expr) => bare(expr),
        Value::None if matches!(arg.key.kind, Kind::Bool) => return Ok(vec![quote!(true)]),
        Value::None if arg.key.kind == Kind::Factor => return Ok(vec![quote!(2.0)]),
        _ => return Err(wanted(arg, &arg.word)),
    };
    if let (Kind::Callback, Expr::Array(list)) = (arg.key.kind, expr) {
        return Ok(list.elems.iter().map(ToTokens::to_token_stream).collect());
    }
    if let (Kind::Texts, Expr::Array(list)) = (arg.key.kind, expr) {
        for wrong in list.elems.iter().filter(|item| literal(item).is_some() && text(item).is_none()) {
            errors.at(wrong, format_args!("`{}` is a list of texts", arg.key.name));
        }
        return Ok(vec![expr.to_token_stream()]);
    }
    match literal(expr) {
        Some(literal) => check_literal(arg, expr, literal, private).map(|value| vec![value]),
        // Whatever it is, it has the wrong type only if the compiler says so.
        None => Ok(vec![expr.to_token_stream()]),
    }
}

/// A literal with its sign.
#[derive(Clone, Copy)]
struct Literal<'e> {
    negative: bool,
    lit: &'e Lit,
}

fn check_literal(
    arg: &Arg,
    expr: &Expr,
    literal: Literal<'_>,
    private: &TokenStream,
) -> syn::Result<TokenStream> {
    let fail = |why: String| Err(syn::Error::new_spanned(expr, why));
    let name = arg.key.name;
    let same = Ok(expr.to_token_stream());
    match (arg.key.kind, literal.lit) {
        (Kind::Count(_), Lit::Int(_)) if literal.negative => fail(format!("`{name}` cannot be negative")),
        (Kind::Count(least), Lit::Int(int)) => match int.base10_parse::<u32>() {
            Ok(number) if number < least => fail(format!("`{name}` must be at least {least}")),
            Ok(_) => same,
            Err(_) => fail(format!("`{name}` can be at most {}", u32::MAX)),
        },
        (Kind::Factor, Lit::Bool(on)) => Ok(if on.value { quote!(2.0) } else { quote!(0.0) }),
        (Kind::Factor, Lit::Int(_) | Lit::Float(_)) if literal.negative => {
            fail(format!("`{name}` cannot be negative"))
        }
        (Kind::Factor, Lit::Int(int)) => {
            let factor = int.base10_parse::<f64>()?;
            Ok(quote_spanned!(int.span()=> #factor))
        }
        (Kind::Duration, Lit::Str(text)) => {
            let duration = parse_duration(&text.value()).map_err(|why| syn::Error::new(text.span(), why))?;
            let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
            Ok(quote!(#private::Duration::new(#secs, #nanos)))
        }
        (Kind::Duration, Lit::Int(int)) => {
            fail(format!("`{name}` lacks its unit: write `\"{int}s\"`, `\"{int}m\"` or `\"{int}h\"`"))
        }
        (Kind::Id, Lit::Str(text)) => check_id(&text.value()).map_or(same, fail),
        (Kind::Color, Lit::Str(text)) if !is_color(&text.value()) => {
            fail(format!("`{}` is no colour: write `#4a154b`, or a name such as `orange`", text.value()))
        }
        (Kind::TriggerRule, Lit::Str(text)) => {
            let variant = variant("trigger rule", &text.value(), TRIGGER_RULES, text.span())?;
            Ok(quote!(#private::TriggerRule::#variant))
        }
        (Kind::WeightRule, Lit::Str(text)) => {
            let variant = variant("weight rule", &text.value(), WEIGHT_RULES, text.span())?;
            Ok(quote!(#private::WeightRule::#variant))
        }
        (Kind::SensorMode, Lit::Str(text)) => {
            let variant = variant("mode", &text.value(), SENSOR_MODES, text.span())?;
            Ok(quote!(#private::SensorMode::#variant))
        }
        (Kind::Isolation, Lit::Str(text)) => {
            let variant = variant("isolation", &text.value(), ISOLATIONS, text.span())?;
            Ok(quote!(#private::Isolation::#variant))
        }
        (Kind::Text | Kind::Color | Kind::Schedule | Kind::When | Kind::Assets, Lit::Str(_))
        | (Kind::Int, Lit::Int(_))
        | (Kind::Factor, Lit::Float(_))
        | (Kind::Bool, Lit::Bool(_))
        | (Kind::Expr | Kind::Type, _) => same,
        _ => Err(wanted(arg, expr)),
    }
}

/// "This option takes something else."
fn wanted(arg: &Arg, at: impl ToTokens) -> syn::Error {
    let name = arg.key.name;
    let takes = match arg.key.kind {
        Kind::Count(_) | Kind::Int => format!("a whole number: `{name} = 3`"),
        Kind::Factor => format!("a factor or a bool: `{name} = 2.0`"),
        Kind::Duration => format!("a duration: `{name} = \"30s\"`"),
        Kind::Text | Kind::Id => format!("a text: `{name} = \"..\"`"),
        Kind::Color => format!("a colour: `{name} = \"#4a154b\"`"),
        Kind::Bool | Kind::Switch => format!("a bool: `{name} = true`"),
        Kind::TriggerRule => format!("a rule: `{name} = \"all_done\"`"),
        Kind::WeightRule => format!("a rule: `{name} = \"upstream\"`"),
        Kind::SensorMode => format!("a mode: `{name} = \"reschedule\"`"),
        Kind::Isolation => format!("an isolation: `{name} = \"process\"`"),
        Kind::Callback => format!("a function: `{name} = notify`"),
        Kind::Texts => format!("a list of texts: `{name} = [\"..\"]`"),
        Kind::Assets => format!("an asset or a list: `{name} = \"s3://..\"`"),
        Kind::When => format!("a date: `{name} = \"2026-01-31\"`"),
        Kind::Schedule => format!("a schedule: `{name} = \"0 6 * * *\"` or `{name} = \"@daily\"`"),
        Kind::Expr => format!("a value: `{name} = ..`"),
        Kind::Type => format!("a type: `{name} = MyParams`"),
        Kind::Types => format!("types: `{name}(PgPool)`"),
        Kind::Path => format!("a path: `{name} = ::airflow`"),
    };
    syn::Error::new_spanned(at, format!("`{name}` takes {takes}"))
}

/// Whether a switch is on: `setup`, `setup = true`.
pub(crate) fn switch(arg: &Arg, errors: &mut Errors) -> bool {
    match &arg.value {
        Value::None => true,
        Value::Expr(Expr::Lit(ExprLit { lit: Lit::Bool(on), .. })) => on.value,
        Value::Expr(expr) => {
            errors.at(expr, format_args!("`{}` takes `true` or `false`", arg.key.name));
            false
        }
        Value::Type(_) | Value::Types(_) => false,
    }
}

/// The text of a string literal.
pub(crate) fn text(expr: &Expr) -> Option<String> {
    match literal(bare(expr))?.lit {
        Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

/// The expression without the invisible group that `macro_rules!` puts around it.
fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(group) => bare(&group.expr),
        _ => expr,
    }
}

fn literal(expr: &Expr) -> Option<Literal<'_>> {
    match expr {
        Expr::Lit(ExprLit { lit, .. }) => Some(Literal { negative: false, lit }),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => match &**expr {
            Expr::Lit(ExprLit { lit, .. }) => Some(Literal { negative: true, lit }),
            _ => None,
        },
        _ => None,
    }
}

fn variant(what: &str, word: &str, known: &[(&str, &str)], span: proc_macro2::Span) -> syn::Result<Ident> {
    let word = word.trim();
    if let Some((_, variant)) = known.iter().find(|(name, _)| *name == word) {
        return Ok(Ident::new(variant, span));
    }
    let help = if let Some(near) = keys::nearest(word, known.iter().map(|(name, _)| *name)) {
        format!("did you mean `{near}`?")
    } else {
        let names: Vec<_> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("there are {}", names.join(", "))
    };
    Err(syn::Error::new(span, format!("unknown {what} `{word}`; {help}")))
}

/// What is wrong with an id, if anything. The rule of `airflow_core::id`, which sees the ids that are no literals.
fn check_id(id: &str) -> Option<String> {
    if id.is_empty() {
        return Some("an id cannot be empty".into());
    }
    let found = id.chars().find(|c| !c.is_alphanumeric() && !"_-.".contains(*c))?;
    Some(format!("an id cannot contain {found:?}; allowed are letters, digits, `_`, `-` and `.`"))
}

fn is_color(text: &str) -> bool {
    match text.strip_prefix('#') {
        Some(hex) => matches!(hex.len(), 3 | 6) && hex.chars().all(|c| c.is_ascii_hexdigit()),
        None => !text.is_empty() && text.chars().all(|c| c.is_ascii_alphabetic()),
    }
}

/// Reads a duration as `airflow_core::time::parse_duration` does; a test of the `airflow` crate compares the two.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let fail = |why: &str| {
        format!(
            "`{text}` is no duration: {why}; write numbers with units, such as `30s`, `5m`, `1h30m`, `2d` or `250ms`"
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(fail("it is empty"));
    }
    if rest.starts_with('-') {
        return Err(fail("it is negative"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| fail("a number lacks its unit"))?;
        if digits == 0 {
            return Err(fail("a number is missing"));
        }
        let number: u64 = rest[..digits].parse().map_err(|_| fail("a number is too large"))?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" | "sec" | "secs" => 1_000,
            "m" | "min" | "mins" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            "" => return Err(fail("a number lacks its unit")),
            unit => return Err(fail(&format!("`{unit}` is no unit"))),
        };
        rest = rest[letters..].trim_start();
        let part =
            number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| fail("it is too long"))?;
        total = total.checked_add(part).ok_or_else(|| fail("it is too long"))?;
    }
    Ok(total)
}
