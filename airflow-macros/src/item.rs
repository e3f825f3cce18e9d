//! A function with an attribute, whose body may be half written.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::visit::Visit;
use syn::{Attribute, Item, Lifetime, Signature, Type, TypeImplTrait, Visibility};

/// A function. Its body is not parsed, so that editors help while it is being written.
pub(crate) struct FnItem {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: TokenTree,
}

impl Parse for FnItem {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let sig: Signature = input.parse()?;
        if !input.peek(syn::token::Brace) {
            return Err(syn::Error::new_spanned(sig.ident, "a body is missing"));
        }
        Ok(Self { attrs, vis, sig, body: input.parse()? })
    }
}

/// Reads the item under `#[name]`; what it must be is in `wanted`.
pub(crate) fn read_fn(item: &TokenStream, name: &str, wanted: &str) -> syn::Result<FnItem> {
    syn::parse2(item.clone()).map_err(|error| {
        let at = match syn::parse2(item.clone()) {
            Ok(Item::Struct(item)) => item.struct_token.to_token_stream(),
            Ok(Item::Enum(item)) => item.enum_token.to_token_stream(),
            Ok(Item::Impl(item)) => item.impl_token.to_token_stream(),
            Ok(Item::Trait(item)) => item.trait_token.to_token_stream(),
            Ok(Item::Mod(item)) => item.mod_token.to_token_stream(),
            Ok(Item::Const(item)) => item.const_token.to_token_stream(),
            Ok(Item::Static(item)) => item.static_token.to_token_stream(),
            Ok(Item::Type(item)) => item.type_token.to_token_stream(),
            Ok(Item::Fn(_)) | Err(_) => return error,
            Ok(item) => item.to_token_stream(),
        };
        syn::Error::new_spanned(at, format!("`#[{name}]` belongs on a function: {wanted}"))
    })
}

/// Finds what a type may not contain.
#[derive(Default)]
pub(crate) struct Found {
    /// The first lifetime but `'static`.
    pub(crate) lifetime: Option<Lifetime>,
    /// The first `impl Trait`.
    pub(crate) impl_trait: Option<TypeImplTrait>,
    /// The first reference without a lifetime.
    pub(crate) reference: Option<syn::TypeReference>,
}

impl Found {
    pub(crate) fn within(ty: &Type) -> Self {
        let mut found = Self::default();
        found.visit_type(ty);
        found
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" && self.lifetime.is_none() {
            self.lifetime = Some(lifetime.clone());
        }
    }

    fn visit_type_impl_trait(&mut self, found: &'ast TypeImplTrait) {
        self.impl_trait.get_or_insert_with(|| found.clone());
    }

    fn visit_type_reference(&mut self, found: &'ast syn::TypeReference) {
        if found.lifetime.is_none() {
            self.reference.get_or_insert_with(|| found.clone());
        }
        syn::visit::visit_type_reference(self, found);
    }

    // The lifetimes of `fn(&str)` and `dyn Fn(&str)` are their own.
    fn visit_type_fn_ptr(&mut self, _: &'ast syn::TypeFnPtr) {}

    fn visit_parenthesized_generic_arguments(&mut self, _: &'ast syn::ParenthesizedGenericArguments) {}
}
