//! `#[dag]`: a function that adds tasks becomes a function that returns the dag.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::Parser as _;
use syn::visit_mut::{self, VisitMut};
use syn::{BinOp, Block, Expr, FnArg, PatType, ReturnType, Signature, Stmt, Type};

use crate::args::{self, Args, Value, last_segment};
use crate::errors::Errors;
use crate::item::{self, FnItem};
use crate::keys;

/// Writes the function that makes the dag.
pub(crate) fn expand(options: TokenStream, item: &TokenStream) -> TokenStream {
    let function = match item::read_fn(item, "dag", "write `fn name(d: &Dag) { .. }`") {
        Ok(function) => function,
        Err(error) => {
            let error = error.to_compile_error();
            return quote!(#item #error);
        }
    };
    let mut errors = Errors::default();
    let args = args::read([options], &[keys::DAG], "#[dag]", &mut errors);
    let Some(dag) = read_dag(&function.sig, &mut errors) else {
        let errors = errors.into_tokens();
        return quote!(#item #errors);
    };
    let code = code(&function, dag, &args, &mut errors);
    let errors = errors.into_tokens();
    quote!(#code #errors)
}

/// Checks the signature; returns the parameter that is the dag.
fn read_dag<'f>(sig: &'f Signature, errors: &mut Errors) -> Option<&'f PatType> {
    if let Some(token) = &sig.asyncness {
        errors.at(token, "a dag is defined without waiting: leave `async` out, and do the work in tasks");
    }
    if let ReturnType::Type(_, ty) = &sig.output
        && !matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty())
    {
        errors.at(ty, "a dag function returns nothing here; `#[dag]` makes it return the `DagDef`");
    }
    match sig.inputs.first() {
        Some(FnArg::Typed(first)) if is_dag(&first.ty) => Some(first),
        Some(FnArg::Receiver(receiver)) => {
            errors.at(receiver.self_token, "a dag has no `self`: write a free function");
            None
        }
        Some(first) => {
            errors.at(first, "the first parameter is the dag to add tasks to: `d: &Dag`");
            None
        }
        None => {
            let name = &sig.ident;
            errors.at(name, format_args!("the dag to add tasks to is missing: write `fn {name}(d: &Dag)`"));
            None
        }
    }
}

fn is_dag(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) if reference.mutability.is_none() => {
            last_segment(&reference.elem).is_some_and(|segment| segment.ident == "Dag")
        }
        Type::Group(group) => is_dag(&group.elem),
        _ => false,
    }
}

fn code(function: &FnItem, dag: &PatType, args: &Args, errors: &mut Errors) -> TokenStream {
    let private = &args.private;
    let FnItem { attrs, vis, sig, body } = function;
    let name = &sig.ident;
    let text = name.unraw().to_string();
    let id = args.expr("id", errors).unwrap_or_else(|| text.to_token_stream());
    let setters = args.setters(&["id", "params"], errors);
    let params = args.get("params").map(|arg| match &arg.value {
        Value::Type(ty) => quote!(.params::<#ty>()),
        Value::Expr(value) => quote!(.params_with(&#value)),
        Value::None | Value::Types(_) => {
            errors.at(&arg.word, "`params` takes a type: `params = MyParams`");
            TokenStream::new()
        }
    });
    let docs = args::docs(attrs).filter(|_| args.get("doc").is_none());
    let docs = docs.iter();
    let body = quiet(body);
    let (generics, bounds) = (&sig.generics, &sig.generics.where_clause);
    let others = sig.inputs.iter().skip(1);
    let announced = sig.inputs.len() == 1 && generics.params.is_empty();
    let announcement = announced.then(|| announce(function, args, &id));
    let PatType { pat, ty, .. } = dag;
    let parts = [&sig.constness.to_token_stream(), &sig.safety.to_token_stream(), &sig.abi.to_token_stream()]
        .map(ToTokens::to_token_stream);
    // With the span of the name, the dag knows the line of the function as its place.
    let private_here = args.private_at(name.span());
    let new = quote_spanned!(name.span()=> #private_here::DagDef::new(#id));
    quote! {
        #(#attrs)*
        #[must_use]
        #vis #(#parts)* fn #name #generics (#(#others),*) -> #private::DagDef #bounds {
            #new #(.doc(#docs))* #setters #params .define(|#pat: #ty| {
                #body
            })
        }

        #announcement
    }
}

/// Lets `discovered_dags()` find the function.
fn announce(function: &FnItem, args: &Args, id: &TokenStream) -> TokenStream {
    let private = &args.private;
    let name = &function.sig.ident;
    let cfgs = args::cfgs(&function.attrs);
    let line = quote_spanned!(name.span()=> ::core::line!());
    quote! {
        #(#cfgs)*
        const _: () = {
            #private::inventory::submit! {
                #private::DiscoveredDag { id: #id, file: ::core::file!(), line: #line, make: #name }
            }
        };
    }
}

/// The body, where `a >> b;` does not warn about its unused result. Other unused results still do.
fn quiet(body: &TokenTree) -> TokenStream {
    let TokenTree::Group(group) = body else { return body.to_token_stream() };
    let Ok(mut stmts) = Block::parse_within.parse2(group.stream()) else {
        // Half written: the compiler reports it better than we could.
        return group.stream();
    };
    // A handle at the end is not returned: there is nobody who could use it.
    if let Some(Stmt::Expr(Expr::Binary(_) | Expr::Call(_) | Expr::MethodCall(_) | Expr::Path(_), semi)) =
        stmts.last_mut()
    {
        semi.get_or_insert_with(Default::default);
    }
    let mut block = Block { brace_token: syn::token::Brace::default(), stmts };
    Quiet.visit_block_mut(&mut block);
    let stmts = block.stmts;
    quote!(#(#stmts)*)
}

struct Quiet;

impl VisitMut for Quiet {
    fn visit_stmt_mut(&mut self, stmt: &mut Stmt) {
        visit_mut::visit_stmt_mut(self, stmt);
        if let Stmt::Expr(expr, Some(semi)) = stmt
            && matches!(expr, Expr::Binary(binary) if matches!(binary.op, BinOp::Shr(_)))
        {
            *stmt = syn::parse_quote!(let _ = #expr #semi);
        }
    }

    // An item in the body is a world of its own.
    fn visit_item_mut(&mut self, _: &mut syn::Item) {}
}
