//! `#[derive(Branch)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::{Data, DeriveInput, Fields};

use crate::args;
use crate::errors::Errors;
use crate::keys;

/// Writes the implementation of `Branch`.
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut errors = Errors::default();
    let options = args::of_attributes(&input.attrs, "branch", &[keys::BRANCH], &mut errors);
    let variants = variants(&input, &mut errors);
    if !input.generics.params.is_empty() {
        errors.at(&input.generics, "a branch has no parameters: its variants are all it is");
    }
    let name = &input.ident;
    let private = &options.private;
    let (list, text) = if errors.is_empty() {
        let texts: Vec<String> = variants.iter().map(|variant| variant.unraw().to_string()).collect();
        (quote!(::std::vec![#(Self::#variants),*]), quote!(match self { #(Self::#variants => #texts,)* }))
    } else {
        // Something to compile against, so that uses of the branch are not reported as well.
        (quote!(::core::unreachable!()), quote!(::core::unreachable!()))
    };
    let (params, generics, bounds) = input.generics.split_for_impl();
    let errors = errors.into_tokens();
    // With the name's span, a missing `Serialize` is reported there.
    quote_spanned! {name.span()=>
        #errors

        #[automatically_derived]
        #[allow(deprecated)]
        impl #params #private::Branch for #name #generics #bounds {
            fn variants() -> ::std::vec::Vec<Self> {
                #list
            }

            fn name(&self) -> &'static ::core::primitive::str {
                #text
            }
        }
    }
}

fn variants<'i>(input: &'i DeriveInput, errors: &mut Errors) -> Vec<&'i syn::Ident> {
    let Data::Enum(data) = &input.data else {
        let token = match &input.data {
            Data::Struct(data) => data.struct_token.to_token_stream(),
            Data::Union(data) => data.union_token.to_token_stream(),
            Data::Enum(_) => TokenStream::new(),
        };
        errors.at(token, "a branch is an enum: each variant is a way the run can go");
        return Vec::new();
    };
    if data.variants.is_empty() {
        errors.at(&input.ident, "a branch needs a variant: each one is a way the run can go");
    }
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            let why = format!(
                "a branch has no data: the ways are known before the run; write `{}`, and return the data from a \
                 task of its own",
                variant.ident
            );
            errors.at(&variant.fields, why);
        }
    }
    data.variants.iter().map(|variant| &variant.ident).collect()
}
