//! What the parameters of a task function are: data, the context, or something injected.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, FnArg, GenericArgument, Ident, LitStr, Pat, PatType, PathArguments, Signature, Type};

use crate::args::{cfgs, last_segment};
use crate::errors::Errors;
use crate::item::Found;

/// Where the value of a parameter comes from.
pub(crate) enum Source {
    /// From upstream, or a constant: a field of the task.
    Data,
    /// The context of the attempt.
    Context,
    /// The parameters of the run, as this type.
    Params(Box<GenericArgument>),
    /// A resource of this type.
    Resource,
    /// A connection of this kind, by its id.
    Conn(Box<GenericArgument>, String),
    /// A mistake, reported already; takes whatever it is given.
    Broken,
}

/// One parameter.
pub(crate) struct Param {
    pub(crate) name: Ident,
    /// The type; without the `&` if it is borrowed.
    pub(crate) ty: Type,
    pub(crate) source: Source,
    pub(crate) cfgs: Vec<Attribute>,
}

/// Reads the parameters of a function; `self` is a mistake.
pub(crate) fn read(sig: &Signature, errors: &mut Errors) -> Vec<Param> {
    let mut params: Vec<Param> = Vec::new();
    for arg in &sig.inputs {
        match arg {
            FnArg::Receiver(receiver) => {
                let message =
                    "a task has no `self`: write a free function, or derive `Operator` for the struct";
                errors.at(receiver.self_token, message);
            }
            FnArg::Typed(arg) => {
                let name = name(arg, &params);
                let cfgs = cfgs(&arg.attrs).into_iter().cloned().collect();
                let (ty, source) = classify(&arg.ty, errors);
                let source = with_conn(arg, source, errors);
                params.push(Param { name, ty, source, cfgs });
            }
        }
    }
    params
}

/// The name of the field for a parameter: its own, or a number if it is a pattern.
fn name(arg: &PatType, before: &[Param]) -> Ident {
    if let Pat::Ident(pat) = &*arg.pat {
        return pat.ident.clone();
    }
    let mut name = format_ident!("arg{}", before.len() + 1);
    while before.iter().any(|param| param.name == name) {
        name = format_ident!("{name}_");
    }
    name.set_span(arg.pat.span());
    name
}

/// The attribute that names the connection of a parameter.
const CONN: &str = "conn";

/// Gives a connection its id: what `#[conn("id")]` says, else the name of the parameter.
fn with_conn(arg: &PatType, source: Source, errors: &mut Errors) -> Source {
    let attr = arg.attrs.iter().find(|attr| attr.path().is_ident(CONN));
    let said = attr.map(|attr| {
        let id = attr.parse_args::<LitStr>();
        let id = id.map_err(|_| {
            syn::Error::new_spanned(attr, "write the id of the connection: `#[conn(\"warehouse\")]`")
        });
        id.and_then(|id| {
            if id.value().is_empty() {
                return Err(syn::Error::new_spanned(&id, "the id of a connection is not empty"));
            }
            Ok(id.value())
        })
    });
    match (source, said) {
        (Source::Conn(..), Some(Err(error))) => {
            errors.add(error);
            Source::Broken
        }
        (Source::Conn(kind, _), Some(Ok(id))) => Source::Conn(kind, id),
        (Source::Conn(kind, _), None) => match &*arg.pat {
            Pat::Ident(pat) => Source::Conn(kind, pat.ident.unraw().to_string()),
            pat => {
                errors.at(pat, "a pattern names no connection: say which, `#[conn(\"warehouse\")]`");
                Source::Broken
            }
        },
        (source @ Source::Broken, _) | (source, None) => source,
        (_, Some(_)) => {
            let at = attr.map(ToTokens::to_token_stream);
            errors.at(
                at,
                "`#[conn(..)]` names the connection of a parameter of the type `&Conn<..>`; this is none",
            );
            Source::Broken
        }
    }
}

/// The function as it was written, but for the attributes that only the macro knows.
pub(crate) fn without_conn(item: &TokenStream) -> TokenStream {
    let mut seen_fn = false;
    let mut done = false;
    let tokens = item.clone().into_iter().map(|token| match token {
        TokenTree::Ident(ident) => {
            seen_fn |= ident == "fn";
            TokenTree::Ident(ident)
        }
        TokenTree::Group(group) if seen_fn && !done && group.delimiter() == Delimiter::Parenthesis => {
            done = true;
            let mut kept = Group::new(Delimiter::Parenthesis, without_attr(group.stream()));
            kept.set_span(group.span());
            TokenTree::Group(kept)
        }
        other => other,
    });
    tokens.collect()
}

fn without_attr(params: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = params.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_conn = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#')
            && matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket
                && matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == CONN));
        if is_conn {
            tokens.next();
        } else {
            kept.push(token);
        }
    }
    kept.into_iter().collect()
}

fn classify(ty: &Type, errors: &mut Errors) -> (Type, Source) {
    match ty {
        Type::Group(group) => classify(&group.elem, errors),
        Type::Paren(paren) => classify(&paren.elem, errors),
        Type::Reference(reference) => {
            let elem = (*reference.elem).clone();
            if let Some(why) = wrong_reference(reference) {
                errors.add(why);
                return (elem, Source::Broken);
            }
            let source = borrowed(&elem);
            (elem, source)
        }
        _ => (ty.clone(), owned(ty, errors)),
    }
}

fn borrowed(ty: &Type) -> Source {
    let Some(segment) = last_segment(ty) else { return Source::Resource };
    match (segment.ident.to_string().as_str(), &segment.arguments) {
        ("TaskContext", PathArguments::None) => Source::Context,
        ("Params", PathArguments::AngleBracketed(args)) if args.args.len() == 1 => {
            Source::Params(Box::new(args.args[0].clone()))
        }
        // Its id is known once the name of the parameter is.
        ("Conn", PathArguments::AngleBracketed(args)) if args.args.len() == 1 => {
            Source::Conn(Box::new(args.args[0].clone()), String::new())
        }
        _ => Source::Resource,
    }
}

fn owned(ty: &Type, errors: &mut Errors) -> Source {
    let found = Found::within(ty);
    if let Some(at) = found.impl_trait {
        errors.at(at, "a task input has one type, which is stored; write it instead of `impl`");
    } else if let Some(at) = found.lifetime {
        errors
            .at(at, "a task input is owned: its value was stored by another task; take `String` or `Vec<T>`");
    } else if let Some(at) = found.reference {
        errors.at(at, "a task input is owned: its value was stored by another task; leave the `&` out");
    } else if let Some(message) = misread(ty) {
        errors.at(ty, message);
    } else {
        return Source::Data;
    }
    Source::Broken
}

/// What to say of an owned parameter whose type is no data.
fn misread(ty: &Type) -> Option<String> {
    let segment = last_segment(ty)?;
    let text = ty.to_token_stream().to_string().replace(' ', "");
    match (segment.ident.to_string().as_str(), &segment.arguments) {
        ("TaskContext", PathArguments::None) => {
            Some("the context is injected: borrow it, `&TaskContext`".into())
        }
        ("Params", PathArguments::AngleBracketed(_)) => {
            Some(format!("the parameters of the run are injected: borrow them, `&{text}`"))
        }
        ("Conn", PathArguments::AngleBracketed(_)) => {
            Some(format!("a connection is injected: borrow it, `&{text}`"))
        }
        ("In" | "Handle" | "Mapped" | "Elem", PathArguments::AngleBracketed(args)) => {
            let inner = args.args.last()?.to_token_stream().to_string().replace(' ', "");
            let inner = if segment.ident == "Mapped" { format!("Vec<{inner}>") } else { inner };
            Some(format!("a task function gets the value itself: take `{inner}`"))
        }
        _ => None,
    }
}

/// What is wrong with a borrowed parameter, if anything.
fn wrong_reference(reference: &syn::TypeReference) -> Option<syn::Error> {
    let elem = &*reference.elem;
    if let Some(token) = reference.mutability {
        let message = "what is injected is shared by all tasks: borrow it without `mut`; a `Mutex` inside can be \
                       changed, and data may be `mut name: T`";
        let at = reference.and_token.to_token_stream();
        return Some(syn::Error::new_spanned(quote!(#at #token), message));
    }
    if let Some(instead) = data_behind(elem) {
        let message = format!(
            "a borrowed parameter is injected, and this looks like data; take `{instead}`, or register the value as a \
             resource under a type of its own"
        );
        return Some(syn::Error::new_spanned(reference, message));
    }
    if let Some(lifetime) = &reference.lifetime {
        let message = "what is injected lives as long as the attempt: leave the lifetime out";
        return Some(syn::Error::new_spanned(lifetime, message));
    }
    let found = Found::within(elem);
    if let Some(at) = found.impl_trait {
        return Some(syn::Error::new_spanned(
            at,
            "a resource is found by its type: name it instead of `impl`",
        ));
    }
    if matches!(elem, Type::TraitObject(_)) {
        let message = format!(
            "a resource is found by its type, which must have a size: register an `Arc<{0}>` and take `&Arc<{0}>`",
            elem.to_token_stream()
        );
        return Some(syn::Error::new_spanned(elem, message));
    }
    let wrong = found.lifetime.map(ToTokens::into_token_stream);
    let wrong = wrong.or(found.reference.map(ToTokens::into_token_stream))?;
    Some(syn::Error::new_spanned(wrong, "a resource owns what it holds: it cannot borrow"))
}

/// The owned type for a reference that is surely meant as data.
fn data_behind(ty: &Type) -> Option<String> {
    let text = || ty.to_token_stream().to_string().replace(' ', "");
    match ty {
        Type::Slice(slice) => Some(format!("Vec<{}>", slice.elem.to_token_stream())),
        Type::Array(_) | Type::Tuple(_) => Some(text()),
        Type::Path(_) => {
            let segment = last_segment(ty)?;
            match (segment.ident.to_string().as_str(), &segment.arguments) {
                ("str", PathArguments::None) => Some("String".into()),
                ("Path", PathArguments::None) => Some("PathBuf".into()),
                (
                    "String" | "PathBuf" | "bool" | "char" | "u8" | "u16" | "u32" | "u64" | "u128" | "usize"
                    | "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "f32" | "f64",
                    PathArguments::None,
                )
                | ("Vec" | "Option", PathArguments::AngleBracketed(_)) => Some(text()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A name that cannot be one of the user's.
pub(crate) fn local(index: usize) -> Ident {
    Ident::new(&format!("__airflow_{index}"), Span::mixed_site())
}

/// For each combination of conditions on parameters, the condition and the indices of the parameters that are there.
///
/// # Errors
///
/// If there are too many.
pub(crate) fn combinations(params: &[Param]) -> syn::Result<Vec<(Option<TokenStream>, Vec<usize>)>> {
    /// Each conditional parameter doubles the code.
    const MOST: usize = 4;
    let conditional: Vec<usize> = (0..params.len()).filter(|i| !params[*i].cfgs.is_empty()).collect();
    if conditional.is_empty() {
        return Ok(vec![(None, (0..params.len()).collect())]);
    }
    if let Some(first) = conditional.get(MOST) {
        let message = format!("a task can have {MOST} parameters with `#[cfg]`: put them into one resource");
        return Err(syn::Error::new_spanned(&params[*first].cfgs[0], message));
    }
    let mut found = Vec::new();
    for bits in 0..1_usize << conditional.len() {
        let is_off = |param: usize| {
            conditional.iter().position(|c| *c == param).is_some_and(|bit| bits >> bit & 1 == 0)
        };
        let mut conditions = Vec::new();
        for param in &conditional {
            let mut all = Vec::new();
            for cfg in &params[*param].cfgs {
                all.push(&cfg.meta.require_list()?.tokens);
            }
            conditions.push(if is_off(*param) {
                quote!(not(all(#(#all),*)))
            } else {
                quote!(all(#(#all),*))
            });
        }
        let there = (0..params.len()).filter(|param| !is_off(*param)).collect();
        found.push((Some(quote!(#[cfg(all(#(#conditions),*))])), there));
    }
    Ok(found)
}
