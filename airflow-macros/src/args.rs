//! Reads `key = value, key(values), key` and turns them into calls of setters.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::discouraged::Speculative as _;
use syn::parse::{ParseStream, Parser as _};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, Token, Type};

use crate::errors::Errors;
use crate::keys::{self, Key, Kind};
use crate::value;

/// What stands behind a key.
pub(crate) enum Value {
    /// Nothing.
    None,
    /// `= expression`.
    Expr(Expr),
    /// `= Type`, where a type may stand.
    Type(Type),
    /// `(types)`.
    Types(Vec<Type>),
}

/// One option as written.
pub(crate) struct Arg {
    pub(crate) key: &'static Key,
    pub(crate) word: Ident,
    pub(crate) value: Value,
}

/// The options of one attribute.
pub(crate) struct Args {
    /// The path of the crate's `__private` module.
    pub(crate) private: TokenStream,
    args: Vec<Arg>,
}

/// Reads the options in `lists`; `place` is the attribute as a user knows it.
pub(crate) fn read(
    lists: impl IntoIterator<Item = TokenStream>,
    known: &[&'static [Key]],
    place: &str,
    errors: &mut Errors,
) -> Args {
    let mut args: Vec<Arg> = Vec::new();
    for list in lists {
        let parser = |input: ParseStream<'_>| read_list(input, &mut args, known, place, errors);
        if let Err(error) = parser.parse2(list) {
            errors.add(error);
        }
    }
    let private = private_path(&args, errors);
    Args { private, args }
}

fn read_list(
    input: ParseStream<'_>,
    args: &mut Vec<Arg>,
    known: &[&'static [Key]],
    place: &str,
    errors: &mut Errors,
) -> syn::Result<()> {
    while !input.is_empty() {
        if let Some(arg) = read_one(input, known, place, errors)? {
            if args.iter().any(|other| other.key.name == arg.key.name) {
                errors.at(&arg.word, format_args!("`{}` is given twice", arg.key.name));
            } else {
                args.push(arg);
            }
        }
        if input.is_empty() {
            break;
        }
        if !input.peek(Token![,]) {
            return Err(input.error("a comma is missing between two options"));
        }
        input.parse::<Token![,]>()?;
    }
    Ok(())
}

/// Reads the options in all `#[name(..)]` among `attrs`.
pub(crate) fn of_attributes(
    attrs: &[syn::Attribute],
    name: &str,
    known: &[&'static [Key]],
    errors: &mut Errors,
) -> Args {
    let mut lists = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(name)) {
        match attr.meta.require_list() {
            Ok(list) => lists.push(list.tokens.clone()),
            Err(error) => errors.add(error),
        }
    }
    read(lists, known, &format!("#[{name}(..)]"), errors)
}

fn read_one(
    input: ParseStream<'_>,
    known: &[&'static [Key]],
    place: &str,
    errors: &mut Errors,
) -> syn::Result<Option<Arg>> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error("write options as `name = value`, such as `retries = 3`"));
    }
    let word = input.call(Ident::parse_any)?;
    let name = word.unraw().to_string();
    let key = keys::find(known, &name);
    if key.is_none() {
        errors.at(&word, keys::unknown(known, place, &name));
    }
    let value = read_value(input, &word, key)?;
    Ok(key.map(|key| Arg { key, word, value }))
}

fn read_value(input: ParseStream<'_>, word: &Ident, key: Option<&Key>) -> syn::Result<Value> {
    if input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in input);
        return if key.is_some_and(|key| key.kind == Kind::Types) {
            let types = Punctuated::<Type, Token![,]>::parse_terminated(&content)?;
            Ok(Value::Types(types.into_iter().collect()))
        } else {
            content.parse::<TokenStream>()?;
            match key {
                Some(_) => Err(syn::Error::new_spanned(
                    word,
                    format_args!("the value of `{word}` stands behind `=`: write `{word} = ..`"),
                )),
                None => Ok(Value::None),
            }
        };
    }
    if !input.peek(Token![=]) {
        return Ok(Value::None);
    }
    input.parse::<Token![=]>()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(syn::Error::new_spanned(word, format_args!("`{word} =` lacks its value")));
    }
    if key.is_some_and(|key| key.kind == Kind::Type) {
        let fork = input.fork();
        if let Ok(ty) = fork.parse::<Type>()
            && (fork.is_empty() || fork.peek(Token![,]))
        {
            input.advance_to(&fork);
            return Ok(Value::Type(ty));
        }
    }
    input.parse().map(Value::Expr)
}

/// The module that generated code refers to.
fn private_path(args: &[Arg], errors: &mut Errors) -> TokenStream {
    let given = args.iter().find(|arg| arg.key.kind == Kind::Path);
    match given.map(|arg| (&arg.word, &arg.value)) {
        None => quote!(::airflow::__private),
        Some((_, Value::Expr(Expr::Path(path)))) => quote!(#path::__private),
        Some((word, _)) => {
            errors.at(word, "`crate` takes the path of the crate, such as `crate = ::airflow`");
            quote!(::airflow::__private)
        }
    }
}

impl Args {
    /// The path of the crate's `__private` module, with `span` as its place.
    pub(crate) fn private_at(&self, span: Span) -> TokenStream {
        // A path of the user's keeps its own place: it may hang on it what the path means.
        if self.get("crate").is_some() {
            self.private.clone()
        } else {
            quote_spanned!(span=> ::airflow::__private)
        }
    }

    /// The option `name`, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|arg| arg.key.name == name)
    }

    /// The value of the option `name` as an expression, checked as far as it is a literal.
    pub(crate) fn expr(&self, name: &str, errors: &mut Errors) -> Option<TokenStream> {
        let arg = self.get(name)?;
        value::check(arg, &self.private, errors).into_iter().next()
    }

    /// Whether the switch `name` is on.
    pub(crate) fn is_on(&self, name: &str, errors: &mut Errors) -> bool {
        self.get(name).is_some_and(|arg| value::switch(arg, errors))
    }

    /// Complains about every option among `keys` that is given.
    pub(crate) fn refuse(&self, keys: &[Key], why: &str, errors: &mut Errors) {
        for arg in self.args.iter().filter(|arg| keys.iter().any(|key| key.name == arg.key.name)) {
            errors.at(&arg.word, why);
        }
    }

    /// The types of the option `name`.
    pub(crate) fn types(&self, name: &str, errors: &mut Errors) -> Vec<Type> {
        match self.get(name) {
            None => Vec::new(),
            Some(Arg { value: Value::Types(types), .. }) => types.clone(),
            Some(arg) => {
                errors.at(&arg.word, format_args!("`{0}` takes types: `{0}(PgPool)`", arg.key.name));
                Vec::new()
            }
        }
    }

    /// Calls of the setters of all options but those in `other`, which the caller treats itself.
    pub(crate) fn setters(&self, other: &[&str], errors: &mut Errors) -> TokenStream {
        let mut calls = TokenStream::new();
        for arg in &self.args {
            if arg.key.kind == Kind::Path || other.contains(&arg.key.name) {
                continue;
            }
            // With the span of the key, editors show the documentation of the setter on it.
            let setter = Ident::new(arg.key.name, arg.word.span());
            for value in value::check(arg, &self.private, errors) {
                calls.extend(quote!(.#setter(#value)));
            }
        }
        calls
    }
}

/// The part a task plays: the body of `Operator::role`, unless it is the usual one.
pub(crate) fn role(args: &Args, errors: &mut Errors) -> Option<TokenStream> {
    let private = &args.private;
    let setup = args.is_on("setup", errors);
    let fails = args.is_on("on_failure_fail_dagrun", errors);
    let teardown = args.is_on("teardown", errors);
    if setup && (teardown || fails) {
        if let Some(arg) = args.get("teardown").or_else(|| args.get("on_failure_fail_dagrun")) {
            errors.at(&arg.word, "a task is a setup or a teardown, not both");
        }
        return None;
    }
    if setup {
        return Some(quote!(#private::Role::Setup));
    }
    let teardown_role = quote!(#private::Role::Teardown { on_failure_fail_dagrun: #fails });
    (teardown || fails).then_some(teardown_role)
}

/// The doc comment among `attrs`, as an expression; `None` if there is none.
pub(crate) fn docs(attrs: &[syn::Attribute]) -> Option<TokenStream> {
    let lines: Vec<&Expr> = attrs
        .iter()
        .filter(|attr| attr.path().is_ident("doc"))
        .filter_map(|attr| attr.meta.require_name_value().ok().map(|doc| &doc.value))
        .collect();
    let texts: Option<Vec<String>> = lines.iter().map(|line| value::text(line)).collect();
    match texts {
        Some(texts) => {
            let lines: Vec<&str> = texts.iter().map(|text| text.strip_prefix(' ').unwrap_or(text)).collect();
            let text = lines.join("\n");
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_token_stream())
        }
        // `#[doc = include_str!("x.md")]`: only the compiler knows the text.
        None => Some(quote!(::core::concat!(#(#lines, "\n"),*))),
    }
}

/// The `#[cfg]`s among `attrs`.
pub(crate) fn cfgs(attrs: &[syn::Attribute]) -> Vec<&syn::Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).collect()
}

/// The last segment of a type's path.
pub(crate) fn last_segment(ty: &Type) -> Option<&syn::PathSegment> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}
