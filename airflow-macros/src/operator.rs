//! `#[derive(Operator)]`: everything about a kind of task but what it does.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Data, DeriveInput, Field, Fields, GenericParam, Meta};

use crate::args::{self, Args, last_segment};
use crate::errors::Errors;
use crate::keys;

/// Writes the implementation of `Operator`.
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut errors = Errors::default();
    let known = &[keys::OPTIONS, keys::OPERATOR, keys::SENSOR];
    let args = args::of_attributes(&input.attrs, "operator", known, &mut errors);
    check_generics(&input, &mut errors);
    let fields = fields(&input, &mut errors).filter(|_| input.generics.lifetimes().next().is_none());
    let code = fields.map(|fields| implementation(&input, &args, &fields, &mut errors));
    let errors = errors.into_tokens();
    quote!(#code #errors)
}

/// What a field is to its operator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Template,
    Input,
    Plain,
}

fn check_generics(input: &DeriveInput, errors: &mut Errors) {
    for param in &input.generics.params {
        if let GenericParam::Lifetime(lifetime) = param {
            errors.at(lifetime, "an operator owns its fields: it lives as long as its dag");
        }
    }
}

/// The named fields with their parts; `None` if the item is of another form.
fn fields<'i>(input: &'i DeriveInput, errors: &mut Errors) -> Option<Vec<(&'i Field, Part)>> {
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(data) => {
            errors.at(
                data.enum_token,
                "an operator is a struct; what differs between its uses is in its fields",
            );
            return None;
        }
        Data::Union(data) => {
            errors.at(data.union_token, "an operator is a struct");
            return None;
        }
    };
    match fields {
        Fields::Named(fields) => {
            Some(fields.named.iter().map(|field| (field, part(field, errors))).collect())
        }
        Fields::Unit => Some(Vec::new()),
        Fields::Unnamed(unnamed) => {
            errors.at(
                unnamed,
                "the fields of an operator have names, which are shown to people: `{ name: Type }`",
            );
            None
        }
    }
}

fn part(field: &Field, errors: &mut Errors) -> Part {
    let marked = |name: &str| field.attrs.iter().find(|attr| attr.path().is_ident(name));
    for mark in ["template", "input"].into_iter().filter_map(marked) {
        if !matches!(mark.meta, Meta::Path(_)) {
            errors.at(mark, "takes no options");
        }
    }
    let is_input = last_segment(&field.ty).is_some_and(|segment| segment.ident == "In");
    match (marked("template"), marked("input")) {
        (Some(mark), _) if is_input => {
            errors.at(mark, "an input is no template; give it `template(\"..\")` where it is used");
            Part::Input
        }
        (Some(mark), Some(_)) => {
            errors.at(mark, "a field is a template or an input, not both");
            Part::Template
        }
        (Some(_), None) => Part::Template,
        (None, Some(_)) if !is_input => {
            let ty = field.ty.to_token_stream();
            errors.at(&field.ty, format_args!("an input comes from upstream: its type is `In<{ty}>`"));
            Part::Plain
        }
        (None, _) if is_input => Part::Input,
        (None, _) => Part::Plain,
    }
}

fn implementation(
    input: &DeriveInput,
    args: &Args,
    fields: &[(&Field, Part)],
    errors: &mut Errors,
) -> TokenStream {
    let private = &args.private;
    let name = &input.ident;
    let text = name.unraw().to_string();
    let kind = args.expr("name", errors).unwrap_or_else(|| text.to_token_stream());
    let id = args.expr("id", errors).unwrap_or_else(|| snake_case(&text).to_token_stream());
    let color = args.expr("color", errors).map(|color| {
        quote! {
            const COLOR: ::core::option::Option<&'static ::core::primitive::str> =
                ::core::option::Option::Some(#color);
        }
    });
    let role = args::role(args, errors).map(|role| quote!(fn role(&self) -> #private::Role { #role }));
    let defaults = defaults(input, args, errors);
    let describe = describe(args, fields, errors);
    let rendered = rendered(private, fields);
    let is_sensor = args.is_on("sensor", errors);
    if !is_sensor {
        args.refuse(
            keys::SENSOR,
            "only a sensor has this option; add `sensor`, and write `impl Sensor`",
            errors,
        );
    }
    let generics = with_bounds(input, private, is_sensor);
    let work = if is_sensor { sensor_work(private, name.span()) } else { work(private, name.span()) };
    let marker = is_sensor.then(|| {
        let (params, names, bounds) = generics.split_for_impl();
        quote_spanned! {name.span()=>
            #[automatically_derived]
            impl #params #private::IsSensor for #name #names #bounds {}
        }
    });
    let (params, names, bounds) = generics.split_for_impl();
    // With the name's span, a missing `impl Execute` is reported there, and only once.
    quote_spanned! {name.span()=>
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #params #private::Operator for #name #names #bounds {
            const NAME: &'static ::core::primitive::str = #kind;
            #color

            fn default_id(&self) -> ::std::string::String {
                ::std::string::String::from(#id)
            }

            #defaults
            #role
            #describe
            #rendered

            #work
        }

        #marker
    }
}

/// What an operator leaves to `Execute`.
fn work(private: &TokenStream, span: Span) -> TokenStream {
    quote_spanned! {span=>
        type Output = <Self as #private::Execute>::Output;

        fn execute(
            &self,
            cx: &#private::TaskContext,
        ) -> impl ::core::future::Future<Output = #private::Result<Self::Output>> + ::core::marker::Send {
            <Self as #private::Execute>::execute(self, cx)
        }

        fn resume(
            &self,
            cx: &#private::TaskContext,
            resumed: &#private::Resumed,
        ) -> impl ::core::future::Future<Output = #private::Result<Self::Output>> + ::core::marker::Send {
            <Self as #private::Execute>::resume(self, cx, resumed)
        }

        fn on_kill(
            &self,
            cx: &#private::TaskContext,
        ) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send {
            <Self as #private::Execute>::on_kill(self, cx)
        }
    }
}

/// What a sensor leaves to `Sensor`.
fn sensor_work(private: &TokenStream, span: Span) -> TokenStream {
    quote_spanned! {span=>
        type Output = <Self as #private::Sensor>::Output;
        const IS_SENSOR: ::core::primitive::bool = true;

        fn execute(
            &self,
            cx: &#private::TaskContext,
        ) -> impl ::core::future::Future<Output = #private::Result<Self::Output>> + ::core::marker::Send {
            #private::watch(self, cx)
        }

        fn poke(
            &self,
            cx: &#private::TaskContext,
        ) -> impl ::core::future::Future<Output = #private::Result<#private::Poke<Self::Output>>>
        + ::core::marker::Send {
            <Self as #private::Sensor>::poke(self, cx)
        }

        fn on_kill(
            &self,
            cx: &#private::TaskContext,
        ) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send {
            <Self as #private::Sensor>::on_kill(self, cx)
        }
    }
}

/// With type parameters, what each concrete use must fulfil.
fn with_bounds(input: &DeriveInput, private: &TokenStream, is_sensor: bool) -> syn::Generics {
    let mut generics = input.generics.clone();
    let types: Vec<_> = input.generics.type_params().map(|param| param.ident.clone()).collect();
    if !types.is_empty() {
        let bounds = generics.make_where_clause();
        bounds.predicates.push(if is_sensor {
            syn::parse_quote!(Self: #private::Sensor)
        } else {
            syn::parse_quote!(Self: #private::Execute)
        });
        for ty in types {
            bounds.predicates.push(syn::parse_quote!(#ty: 'static));
        }
    }
    generics
}

fn defaults(input: &DeriveInput, args: &Args, errors: &mut Errors) -> TokenStream {
    let private = &args.private;
    let other =
        ["id", "name", "color", "needs", "triggers", "sensor", "setup", "teardown", "on_failure_fail_dagrun"];
    let setters = args.setters(&other, errors);
    let docs = args::docs(&input.attrs).filter(|_| args.get("doc").is_none());
    let docs = docs.iter();
    quote! {
        fn defaults(&self) -> #private::TaskOptions {
            #private::TaskOptions::new() #setters #(.doc(#docs))*
        }
    }
}

fn describe(args: &Args, fields: &[(&Field, Part)], errors: &mut Errors) -> TokenStream {
    let private = &args.private;
    let lines = fields.iter().filter_map(|(field, part)| {
        let (name, cfgs) = (&field.ident, conditions(field));
        let text = name.as_ref().map(|name| name.unraw().to_string());
        let span = field.ty.span();
        match part {
            Part::Input => Some(quote_spanned!(span=> #(#cfgs)* description.input(&self.#name);)),
            Part::Template => {
                Some(quote_spanned!(span=> #(#cfgs)* description.template(#text, &self.#name);))
            }
            Part::Plain => None,
        }
    });
    let needs = args.types("needs", errors);
    let triggers = args.types("triggers", errors);
    quote! {
        fn describe(&self, description: &mut #private::Description) {
            let _ = &description;
            #(#lines)*
            #(description.resource::<#needs>();)*
            #(description.trigger::<#triggers>();)*
        }
    }
}

fn rendered(private: &TokenStream, fields: &[(&Field, Part)]) -> Option<TokenStream> {
    fields.iter().find(|(_, part)| *part == Part::Template)?;
    let copies = fields.iter().map(|(field, part)| {
        let (name, cfgs) = (&field.ident, conditions(field));
        let span = field.ty.span();
        let value = if *part == Part::Template {
            quote_spanned!(span=> #private::Template::render(&self.#name, renderer)?)
        } else {
            quote_spanned!(span=> ::core::clone::Clone::clone(&self.#name))
        };
        quote!(#(#cfgs)* #name: #value)
    });
    Some(quote! {
        fn rendered(
            &self,
            renderer: &#private::Renderer,
        ) -> ::core::result::Result<::core::option::Option<Self>, #private::TemplateError> {
            ::core::result::Result::Ok(::core::option::Option::Some(Self { #(#copies,)* }))
        }
    })
}

fn conditions(field: &Field) -> Vec<&Attribute> {
    args::cfgs(&field.attrs)
}

/// `SlackPost` as `slack_post`, `HTTPCall` as `http_call`.
fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (at, c) in chars.iter().enumerate() {
        let after_small = at > 0 && !chars[at - 1].is_uppercase() && chars[at - 1] != '_';
        let before_small = at > 0 && chars.get(at + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && (after_small || before_small) && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_id_is_the_name_in_snake_case() {
        for (name, id) in [
            ("SlackPost", "slack_post"),
            ("HTTPCall", "http_call"),
            ("S3ToGcs", "s3_to_gcs"),
            ("Bash", "bash"),
            ("A", "a"),
            ("Already_Snake", "already_snake"),
        ] {
            assert_eq!(snake_case(name), id);
        }
    }
}
