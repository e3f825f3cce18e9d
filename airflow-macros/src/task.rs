//! `#[task]`: the function stays; a struct of the same name, in the namespace of types, is the operator.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, GenericParam, ReturnType, Signature, Type};

use crate::args::{self, Args};
use crate::errors::Errors;
use crate::item::{self, FnItem, Found};
use crate::keys;
use crate::params::{self, Param, Source};

/// Which attribute it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Task,
    Sensor,
}

/// Writes the operator beside the function.
pub(crate) fn expand(options: TokenStream, item: &TokenStream, flavour: Flavour) -> TokenStream {
    let (attribute, place, known, wanted) = match flavour {
        Flavour::Task => {
            let known: &[&'static [keys::Key]] = &[keys::OPTIONS, keys::TASK];
            ("task", "#[task]", known, "for a struct, derive `Operator`")
        }
        Flavour::Sensor => {
            let known: &[&'static [keys::Key]] = &[keys::OPTIONS, keys::SENSOR, keys::SENSOR_FN];
            ("sensor", "#[sensor]", known, "for a struct, derive `Operator` with `#[operator(sensor)]`")
        }
    };
    let function = match item::read_fn(item, attribute, wanted) {
        Ok(function) => function,
        Err(error) => {
            let error = error.to_compile_error();
            return quote!(#item #error);
        }
    };
    let mut errors = Errors::default();
    let args = args::read([options], known, place, &mut errors);
    let code = Task::read(&function, &args, flavour, &mut errors).map(|task| task.code(&mut errors));
    let errors = errors.into_tokens();
    let item = params::without_conn(item);
    quote! {
        // The form of a task is given: it may be async, take its input by value and return a `Result` without need.
        #[allow(
            clippy::unused_async,
            clippy::needless_pass_by_value,
            clippy::trivially_copy_pass_by_ref,
            clippy::unnecessary_wraps
        )]
        #item
        #code
        #errors
    }
}

struct Task<'a> {
    function: &'a FnItem,
    args: &'a Args,
    flavour: Flavour,
    params: Vec<Param>,
    /// The return type.
    output: Type,
    cfgs: Vec<&'a Attribute>,
}

impl<'a> Task<'a> {
    /// Checks the function; `None` if nothing useful can be generated.
    fn read(function: &'a FnItem, args: &'a Args, flavour: Flavour, errors: &mut Errors) -> Option<Self> {
        let sig = &function.sig;
        let usable = check_signature(sig, errors);
        check_blocking(sig, args, errors);
        let params = params::read(sig, errors);
        let output = match &sig.output {
            ReturnType::Default => syn::parse_quote_spanned!(sig.ident.span()=> ()),
            ReturnType::Type(_, ty) => (**ty).clone(),
        };
        let found = Found::within(&output);
        let wrong = found.impl_trait.map(ToTokens::into_token_stream);
        let usable = usable && wrong.is_none();
        if let Some(at) = wrong {
            errors.at(at, "the result of a task has one type, which is stored; write it instead of `impl`");
        }
        let borrows = found.lifetime.map(ToTokens::into_token_stream);
        let borrows = borrows.or(found.reference.map(ToTokens::into_token_stream));
        let usable = usable && borrows.is_none();
        if let Some(at) = borrows {
            errors.at(
                at,
                "the result of a task is stored, so it must own its data; return `String` or `Vec<T>`",
            );
        }
        let cfgs = args::cfgs(&function.attrs);
        usable.then_some(Self { function, args, flavour, params, output, cfgs })
    }

    fn code(&self, errors: &mut Errors) -> TokenStream {
        let operator = self.operator(errors);
        let cfgs = &self.cfgs;
        let name = &self.function.sig.ident;
        let vis = &self.function.vis;
        let text = name.unraw().to_string();
        let docs: Vec<_> = self.function.attrs.iter().filter(|attr| attr.path().is_ident("doc")).collect();
        let no_docs = docs.is_empty().then(|| format!("The task `{text}`."));
        let no_docs = no_docs.iter();
        let fields = self.data().map(|Param { name, ty, cfgs, .. }| {
            let private = &self.args.private;
            quote!(#(#cfgs)* #name: #private::In<#ty>)
        });
        let call = self.call(errors);
        quote! {
            #(#cfgs)*
            #(#docs)*
            #(#[doc = #no_docs])*
            #[allow(non_camel_case_types, missing_debug_implementations, clippy::all, clippy::pedantic)]
            #vis struct #name {
                #(#fields,)*
            }

            #call
            #operator
        }
    }

    fn data(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| matches!(param.source, Source::Data))
    }

    /// `ID` and `call`.
    fn call(&self, errors: &mut Errors) -> TokenStream {
        let (cfgs, vis) = (&self.cfgs, &self.function.vis);
        let name = &self.function.sig.ident;
        let private = &self.args.private_at(name.span());
        let text = name.unraw().to_string();
        let id = self.args.expr("id", errors).unwrap_or_else(|| text.to_token_stream());
        let inputs = self.params.iter().filter_map(|Param { name, ty, cfgs, source }| match source {
            Source::Data => Some(quote_spanned!(name.span()=> #(#cfgs)* #name: impl #private::IntoIn<#ty>)),
            Source::Broken => Some(quote!(#(#cfgs)* #name: impl ::core::marker::Sized)),
            _ => None,
        });
        let fields = self
            .data()
            .map(|Param { name, cfgs, .. }| quote!(#(#cfgs)* #name: #private::IntoIn::into_in(#name)));
        let (id_doc, call_doc) = (
            format!("The id of the task `{text}`, if a use gives no other."),
            format!("A use of the task `{text}`, with constants, handles or mapped elements as its data."),
        );
        quote_spanned! {name.span()=>
            #(#cfgs)*
            #[allow(clippy::all, clippy::pedantic, unused_variables)]
            impl #name {
                #[doc = #id_doc]
                #[allow(dead_code)]
                #vis const ID: &'static ::core::primitive::str = #id;

                #[doc = #call_doc]
                #[must_use = "a task becomes part of the dag when it is added: `d.add(..)`"]
                #vis fn call(#(#inputs),*) -> #private::Spec<Self> {
                    #private::Spec::new(Self { #(#fields,)* })
                }
            }
        }
    }

    /// The implementation of `Operator`.
    fn operator(&self, errors: &mut Errors) -> TokenStream {
        let (private, cfgs) = (&self.args.private, &self.cfgs);
        let name = &self.function.sig.ident;
        let text = name.unraw().to_string();
        let setters = self
            .args
            .setters(&["id", "setup", "teardown", "on_failure_fail_dagrun", "blocking", "triggers"], errors);
        let triggers = self.args.types("triggers", errors);
        let docs = args::docs(&self.function.attrs).filter(|_| self.args.get("doc").is_none());
        let docs = docs.iter();
        let role =
            args::role(self.args, errors).map(|role| quote!(fn role(&self) -> #private::Role { #role }));
        let described = self.params.iter().filter_map(|Param { name, ty, cfgs, source }| match source {
            Source::Data => Some(quote!(#(#cfgs)* description.input(&self.#name);)),
            Source::Resource => Some(quote_spanned!(ty.span()=> #(#cfgs)* description.resource::<#ty>();)),
            _ => None,
        });
        let execute = self.execute(errors);
        let output = self.output();
        let marker = (self.flavour == Flavour::Sensor).then(|| {
            quote! {
                #(#cfgs)*
                impl #private::IsSensor for #name {}
            }
        });
        quote! {
            #(#cfgs)*
            #[allow(clippy::all, clippy::pedantic, unused_variables, deprecated)]
            impl #private::Operator for #name {
                #output
                const NAME: &'static ::core::primitive::str = #text;

                fn default_id(&self) -> ::std::string::String {
                    ::std::string::String::from(Self::ID)
                }

                fn defaults(&self) -> #private::TaskOptions {
                    #private::TaskOptions::new() #setters #(.doc(#docs))*
                }

                #role

                fn describe(&self, description: &mut #private::Description) {
                    #(#described)*
                    #(description.trigger::<#triggers>();)*
                }

                #execute
            }

            #marker
        }
    }

    /// The type of the result. With the span of the return type, one that cannot be stored is reported there.
    fn output(&self) -> TokenStream {
        let ty = &self.output;
        let private = self.args.private_at(ty.span());
        match self.flavour {
            Flavour::Task => quote_spanned! {ty.span()=>
                type Output = <<#ty as #private::TaskReturn>::Output as #private::Stored>::Type;
            },
            Flavour::Sensor => quote_spanned! {ty.span()=>
                type Output = <<#ty as #private::TaskReturn>::Output as #private::PokeReturn>::Ready;
                const IS_SENSOR: ::core::primitive::bool = true;
            },
        }
    }

    fn execute(&self, errors: &mut Errors) -> TokenStream {
        let private = &self.args.private;
        let name = &self.function.sig.ident;
        let combinations = params::combinations(&self.params).unwrap_or_else(|error| {
            errors.add(error);
            Vec::new()
        });
        if !errors.is_empty() {
            return quote! {
                async fn execute(&self, cx: &#private::TaskContext) -> #private::Result<Self::Output> {
                    ::core::unreachable!()
                }
            };
        }
        let is_async = self.function.sig.asyncness.is_some();
        let fetches =
            self.params.iter().enumerate().map(|(index, param)| fetch(index, param, private, is_async));
        let returned = params::local(self.params.len());
        let wait = is_async.then(|| quote!(.await));
        let calls = combinations.iter().map(|(cfg, there)| {
            let given = there.iter().map(|index| given(*index, &self.params[*index], is_async));
            quote_spanned!(name.span()=> #cfg let #returned = #name(#(#given),*) #wait;)
        });
        let ty = &self.output;
        let at_output = self.args.private_at(ty.span());
        let result = quote_spanned!(ty.span()=> <#ty as #at_output::TaskReturn>::into_result(#returned));
        let body = if is_async {
            quote!(#(#calls)* #result)
        } else {
            quote!(#private::blocking(move || { #(#calls)* #result }).await)
        };
        // The same span as that of `type Output`, and no `async fn`, which would be another place to the compiler: the
        // same mistake at the same place is shown once.
        match self.flavour {
            Flavour::Task => quote_spanned! {ty.span()=>
                fn execute(
                    &self,
                    __airflow_cx: &#at_output::TaskContext,
                ) -> impl ::core::future::Future<Output = #at_output::Result<Self::Output>> + ::core::marker::Send {
                    async move {
                        #(#fetches)*
                        #body
                    }
                }
            },
            Flavour::Sensor => quote_spanned! {ty.span()=>
                fn execute(
                    &self,
                    __airflow_cx: &#at_output::TaskContext,
                ) -> impl ::core::future::Future<Output = #at_output::Result<Self::Output>> + ::core::marker::Send {
                    #at_output::watch(self, __airflow_cx)
                }

                fn poke(
                    &self,
                    __airflow_cx: &#at_output::TaskContext,
                ) -> impl ::core::future::Future<Output = #at_output::Result<#at_output::Poke<Self::Output>>>
                + ::core::marker::Send {
                    async move {
                        #(#fetches)*
                        let __airflow_found = async { #body }.await?;
                        ::core::result::Result::Ok(#at_output::PokeReturn::into_poke(__airflow_found))
                    }
                }
            },
        }
    }
}

/// Brings the value of a parameter into a local variable.
fn fetch(index: usize, param: &Param, private: &TokenStream, is_async: bool) -> TokenStream {
    let Param { name, ty, cfgs, source } = param;
    let local = params::local(index);
    let value = match source {
        Source::Data => quote!(self.#name.get(__airflow_cx)?),
        Source::Params(inner) => quote!(#private::Params::<#inner>::of(__airflow_cx)?),
        Source::Resource if is_async => quote_spanned!(ty.span()=> __airflow_cx.resource::<#ty>()?),
        Source::Resource => quote_spanned!(ty.span()=> __airflow_cx.resource_arc::<#ty>()?),
        Source::Conn(kind, id) => quote_spanned!(ty.span()=> __airflow_cx.conn::<#kind>(#id).await?),
        Source::Context if is_async => quote!(__airflow_cx),
        Source::Context => quote!(::core::clone::Clone::clone(__airflow_cx)),
        Source::Broken => TokenStream::new(),
    };
    quote!(#(#cfgs)* let #local = #value;)
}

/// A parameter as it is given to the function.
fn given(index: usize, param: &Param, is_async: bool) -> TokenStream {
    let local = params::local(index);
    match param.source {
        Source::Data | Source::Broken => quote!(#local),
        Source::Resource | Source::Context if is_async => quote!(#local),
        Source::Resource => quote!(&*#local),
        Source::Context | Source::Params(_) | Source::Conn(..) => quote!(&#local),
    }
}

/// Whether the function can be called by the engine, as far as code can be generated for it.
fn check_signature(sig: &Signature, errors: &mut Errors) -> bool {
    if let syn::Safety::Unsafe(token) = &sig.safety {
        errors.at(token, "a task is safe: the engine cannot keep promises it does not know");
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(variadic, "a task has a fixed list of parameters");
    }
    for param in &sig.generics.params {
        let message = match param {
            GenericParam::Type(_) => {
                "a task has no type parameters: the worker could not tell which one to run"
            }
            GenericParam::Const(_) => {
                "a task has no const parameters: the worker could not tell which one to run"
            }
            GenericParam::Lifetime(_) => {
                "a task has no lifetime parameters: data is owned, and what is injected lives as long as the attempt"
            }
        };
        errors.at(param, message);
    }
    sig.generics.params.is_empty() && sig.receiver().is_none()
}

fn check_blocking(sig: &Signature, args: &Args, errors: &mut Errors) {
    let Some(arg) = args.get("blocking") else { return };
    let on = args.is_on("blocking", errors);
    if on && sig.asyncness.is_some() {
        errors
            .at(sig.asyncness, "a `blocking` task runs on a thread of its own: write `fn`, without `async`");
    } else if !on && sig.asyncness.is_none() {
        errors
            .at(&arg.word, "a plain `fn` always runs on a thread that may block; write `async fn` otherwise");
    }
}
