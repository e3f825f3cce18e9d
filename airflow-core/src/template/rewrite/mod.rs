//! Turns a template in Jinja's language into one that the engine renders with Python's results.
//!
//! Text, comments and raw blocks stay as they are; expressions are parsed by Jinja's grammar and written anew (see
//! `expr`). Lines keep their numbers. Nothing is evaluated here. Start reading at [`rewrite`].

mod expr;
mod tokens;

use self::expr::Parser;
use self::tokens::{Kind, Tag, read_tag};
use super::error::TemplateErrorKind;

/// The longest template text: more than any query, far less than what would make compiling noticeable.
pub(super) const MAX_TEMPLATE: usize = 1024 * 1024;
/// The most `elif` in a row; the engine compiles them by recursion.
const MAX_ELIF: usize = 60;

/// What is wrong with a template's text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: TemplateErrorKind,
    pub(super) line: usize,
    pub(super) message: String,
}

impl Fault {
    fn syntax(line: usize, message: impl Into<String>) -> Self {
        Self { kind: TemplateErrorKind::Syntax, line, message: message.into() }
    }

    fn limit(line: usize, message: impl Into<String>) -> Self {
        Self { kind: TemplateErrorKind::Limit, line, message: message.into() }
    }
}

/// A filter or test that a template names.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) line: usize,
    /// Whether it stands under a condition: Jinja then misses it only when it gets there.
    pub(super) conditional: bool,
}

/// The filters and tests that a template names.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) filters: Vec<Named>,
    pub(super) tests: Vec<Named>,
    /// Names that the template asks about (`x is defined`, `x | default(..)`) and that may therefore be missing.
    pub(super) optional: Vec<String>,
}

/// A template for the engine.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) text: String,
    pub(super) used: Used,
    /// Bytes of the longest plain text inside a block, which a loop or a macro may repeat.
    pub(super) repeatable: usize,
}

/// The text of a Python string literal, quotes included; `None` if an escape is malformed.
pub(super) fn decode_string(literal: &str) -> Option<String> {
    tokens::decode(literal)
}

/// Whether a text holds no tag at all, so that only its line ends need care.
pub(super) fn is_plain(template: &str) -> bool {
    !(template.contains("{{") || template.contains("{%") || template.contains("{#"))
}

/// What a template without tags renders to: line ends become `\n`, and one at the very end is dropped.
pub(super) fn plain(template: &str) -> String {
    let mut text = unify_newlines(template);
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

fn unify_newlines(template: &str) -> String {
    if template.contains('\r') {
        template.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        template.to_owned()
    }
}

/// Rewrites a template.
///
/// # Errors
///
/// Whatever Jinja would call a syntax error in an expression, and texts beyond the limits.
pub(super) fn rewrite(template: &str) -> Result<Rewritten, Fault> {
    if template.len() > MAX_TEMPLATE {
        return Err(Fault::limit(1, format!("the template is longer than {} KiB", MAX_TEMPLATE / 1024)));
    }
    let source = unify_newlines(template);
    let mut state = Rewriter {
        out: Rewritten {
            text: String::with_capacity(source.len() * 2),
            used: Used::default(),
            repeatable: 0,
        },
        line: 1,
        open: 0,
        elifs: 0,
        conditions: 0,
    };
    let mut rest = source.as_str();
    while let Some(start) = next_tag(rest) {
        state.data(&rest[..start]);
        rest = &rest[start..];
        rest = &rest[state.tag(rest)?..];
    }
    state.data(rest);
    Ok(state.out)
}

fn next_tag(rest: &str) -> Option<usize> {
    ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min()
}

struct Rewriter {
    out: Rewritten,
    line: usize,
    open: usize,
    elifs: usize,
    conditions: usize,
}

impl Rewriter {
    fn data(&mut self, text: &str) {
        if self.open > 0 {
            self.out.repeatable = self.out.repeatable.max(text.len());
        }
        self.copy(text);
    }

    fn copy(&mut self, text: &str) {
        self.line += text.matches('\n').count();
        self.out.text.push_str(text);
    }

    /// Writes the tag at the beginning of `rest` and returns its length.
    fn tag(&mut self, rest: &str) -> Result<usize, Fault> {
        if rest.starts_with("{#") {
            let end =
                rest.find("#}").ok_or_else(|| Fault::syntax(self.line, "the comment is never closed"))? + 2;
            self.copy(&rest[..end]);
            return Ok(end);
        }
        if let Some(RawEnd(end)) = raw_block(rest) {
            let end = end.ok_or_else(|| Fault::syntax(self.line, "`{% raw %}` is never closed"))?;
            self.data(&rest[..end]);
            return Ok(end);
        }
        let block = rest.starts_with("{%");
        let sign = usize::from(rest[2..].starts_with(['-', '+']));
        let open = &rest[..2 + sign];
        let tag = read_tag(&rest[open.len()..], if block { "%}" } else { "}}" }, self.line)?;
        let mut parser = Parser::new(&tag, self.line, self.conditions > 0, &mut self.out.used);
        let inside = if block { statement(&mut parser)? } else { parser.tuple(true)?.text };
        parser.finish()?;
        if block {
            self.count_blocks(&tag)?;
        }
        self.out.text.push_str(open);
        if !inside.starts_with(char::is_whitespace) {
            self.out.text.push(' ');
        }
        self.out.text.push_str(&inside);
        self.out.text.push_str(if tag.tail.is_empty() { " " } else { tag.tail });
        self.out.text.push_str(tag.close);
        self.line += rest[..open.len() + tag.length].matches('\n').count();
        Ok(open.len() + tag.length)
    }

    fn count_blocks(&mut self, tag: &Tag<'_>) -> Result<(), Fault> {
        let Some(word) = tag.tokens.first() else {
            return Err(Fault::syntax(
                self.line,
                "an empty tag: a statement such as `if` or `for` is missing",
            ));
        };
        self.elifs = if word.text == "elif" { self.elifs + 1 } else { 0 };
        if self.elifs > MAX_ELIF {
            return Err(Fault::limit(word.line, format!("more than {MAX_ELIF} `elif` in a row")));
        }
        match word.text {
            "if" => self.conditions += 1,
            "endif" => self.conditions = self.conditions.saturating_sub(1),
            _ => {}
        }
        match word.text {
            "for" | "if" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" => self.open += 1,
            "set" if !tag.tokens.iter().any(|t| t.text == "=") => self.open += 1,
            end if end.starts_with("end") => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }
}

/// Where a raw block ends, if it does.
struct RawEnd(Option<usize>);

/// The end of the raw block that starts here, if one does; the length is absent if it is never closed.
fn raw_block(rest: &str) -> Option<RawEnd> {
    fn tag_end(rest: &str, word: &str) -> Option<usize> {
        let inner = rest.strip_prefix("{%")?;
        let inner =
            inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start().strip_prefix(word)?.trim_start();
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).strip_prefix("%}")?;
        Some(rest.len() - inner.len())
    }
    let body = tag_end(rest, "raw")?;
    let mut at = body;
    while let Some(found) = rest[at..].find("{%") {
        at += found;
        if let Some(length) = tag_end(&rest[at..], "endraw") {
            return Some(RawEnd(Some(at + length)));
        }
        at += 2;
    }
    Some(RawEnd(None))
}

/// Writes what stands between `{%` and `%}`.
fn statement(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let Some(word) = parser.peek().filter(|t| t.kind == Kind::Name) else {
        return Ok(parser.verbatim());
    };
    if word.text == "set" {
        return assignment(parser);
    }
    if word.text == "do" {
        parser.next()?;
        return Ok(format!("{}set __done ={}", word.space, parser.tuple(true)?.text));
    }
    let head = format!("{}{}", word.space, word.text);
    Ok(match word.text {
        "if" | "elif" => {
            parser.next()?;
            head + &parser.tuple(false)?.text
        }
        "for" => {
            parser.next()?;
            head + &loop_head(parser)?
        }
        "filter" => {
            parser.next()?;
            head + &filter_chain(parser)?
        }
        "macro" => {
            parser.next()?;
            let name = parser.expect_name()?;
            format!("{head}{}{}{}", name.space, name.text, parameters(parser)?)
        }
        "call" => {
            parser.next()?;
            let head = if parser.is_op("(") { head + &parameters(parser)? } else { head };
            head + &parser.expr()?.text
        }
        "with" => {
            parser.next()?;
            head + &assignments(parser)?
        }
        "include" | "extends" | "autoescape" | "import" | "from" => {
            parser.next()?;
            let name = parser.expr()?.text;
            format!("{head}{name}{}", parser.verbatim())
        }
        _ => parser.verbatim(),
    })
}

/// `x = value`, `a, b = value`, `ns.x = value`, or `x | filter` of a block.
fn assignment(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let mut text = String::new();
    let mut into_namespace = false;
    while !parser.is_done() && !parser.is_op("=") && !parser.is_op("|") {
        let token = parser.next()?;
        into_namespace |= token.text == ".";
        text += token.space;
        text += token.text;
    }
    if parser.is_op("|") {
        text += &parser.expect_op("|")?;
        return Ok(text + &filter_chain(parser)?);
    }
    if parser.is_done() {
        return Ok(text);
    }
    text += &parser.expect_op("=")?;
    let value = parser.tuple(true)?.text;
    // A namespace is the one place where a loop can nest a value ever deeper.
    Ok(if into_namespace { format!("{text} ({value})|__bounded") } else { text + &value })
}

fn filter_chain(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let mut text = parser.filter()?.text;
    while parser.is_op("|") {
        text += &parser.expect_op("|")?;
        text += &parser.filter()?.text;
    }
    Ok(text)
}

fn loop_head(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let mut text = String::new();
    while !parser.is_name("in") {
        let token = parser.next()?;
        text += token.space;
        text += token.text;
    }
    if text.trim().is_empty() {
        return Err(Fault::syntax(parser.line(), "`for` needs a name before `in`"));
    }
    text += parser.next()?.space;
    text += "in";
    text += &parser.tuple(false)?.text;
    if parser.is_name("if") {
        text += parser.next()?.space;
        text += "if";
        text += &parser.expr()?.text;
    }
    if parser.is_name("recursive") {
        text += &parser.verbatim();
    }
    Ok(text)
}

/// `(a, b='x')` of a macro or call block.
fn parameters(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let mut text = parser.expect_op("(")?;
    while !parser.is_op(")") {
        let name = parser.expect_name()?;
        text += name.space;
        text += name.text;
        if parser.is_op("=") {
            text += &parser.expect_op("=")?;
            text += &parser.expr()?.text;
        }
        if !parser.is_op(")") {
            text += &parser.expect_op(",")?;
        }
    }
    Ok(text + &parser.expect_op(")")?)
}

fn assignments(parser: &mut Parser<'_, '_, '_>) -> Result<String, Fault> {
    let mut text = String::new();
    while !parser.is_done() {
        if !text.is_empty() {
            text += &parser.expect_op(",")?;
        }
        while !parser.is_op("=") {
            let token = parser.next()?;
            text += token.space;
            text += token.text;
        }
        text += &parser.expect_op("=")?;
        text += &parser.expr()?.text;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(template: &str) -> String {
        rewrite(template).map_or_else(|f| format!("{:?}: {}", f.kind, f.message), |r| r.text)
    }

    #[test]
    fn operators_become_filters_and_everything_else_stays() {
        for (template, expected) in [
            ("a {{ ds }} b", "a {{ ds }} b"),
            ("{{ a + b * c }}", "{{ a |__add( b |__mul( c)) }}"),
            ("{{ -a.b|f }}", "{{ a.b|__neg|f }}"),
            ("{{ a < b }}", "{{ a |__lt( b) }}"),
            ("{{ a<b<c }}", "{{ ( a|__lt(b) and  b|__lt(c)) }}"),
            ("{{ [1,2][0] }}", "{{ ( [1,2]|__mutable)[0] }}"),
            ("{{ ds[:4] }}", "{{ ds|__slice(none,4,none) }}"),
            ("{{ x is divisibleby 3 }}", "{{ x is divisibleby( 3) }}"),
            ("{{ ''.__class__ }}", "{{ \"\"|__internal(\"__class__\") }}"),
            ("{% raw %}{{ a + b }}{% endraw %}", "{% raw %}{{ a + b }}{% endraw %}"),
            ("{# {{ a + b }} #}", "{# {{ a + b }} #}"),
            ("{% for a, b in c if a > 1 %}", "{% for a, b in c if a |__gt( 1) %}"),
            ("{% do a.b(1) %}", "{% set __done = a.b(1) %}"),
            ("{{ {'a': {}}}}", "{{ {\"a\": { }|__mutable }|__mutable }}"),
            ("{%- if not a -%}", "{%- if not a -%}"),
        ] {
            assert_eq!(rewritten(template), expected, "{template}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let template =
            "a\n{{ b +\n c\n ~ 'x\ny' }}\n{% if a <\n b <\n c %}\n{{ d[\n1\n:\n2\n] }}{# \n #}\nend";
        let lines = |text: &str| text.matches('\n').count();
        assert_eq!(lines(&rewritten(template)), lines(template), "{}", rewritten(template));
    }

    #[test]
    fn faults_are_found_where_jinja_finds_them() {
        for template in
            ["{{ ds }", "{{ }}", "{% for %}{% endfor %}", "{{ a b }}", "{{ a + }}", "{{ (a }}", "{% %}"]
        {
            let fault = rewrite(template).expect_err(template);
            assert_eq!(fault.kind, TemplateErrorKind::Syntax, "{template}");
        }
    }

    #[test]
    fn deep_and_long_expressions_are_refused_before_the_stack_is_at_risk() {
        for template in [
            format!("{{{{ {}1{} }}}}", "(".repeat(500), ")".repeat(500)),
            format!("{{{{ 1{} }}}}", " + 1".repeat(500)),
            format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
            format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
            format!("{{{{ x{} }}}}", ".a".repeat(500)),
            "x".repeat(MAX_TEMPLATE + 1),
        ] {
            assert_eq!(rewrite(&template).expect_err("too deep").kind, TemplateErrorKind::Limit);
        }
    }
}
